"""`visalign generate --engine ray`: the pixels of the local engine, each sample once."""

import json

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.jobs import generate_on_ray
from visalign.jobs.generate_on_ray import cut_places
from visalign.media.samples import to_bytes
from visalign.media.video_files import read_media
from visalign.sampling import folder
from visalign.sampling.feedback import samples_at


def generate(*arguments):
    words = ["tiny-sd3", "a red heart", "a blue star", "a green leaf", "--samples-per-prompt", "3", "--steps", "1",
             "--guidance-scale", "1", "--device", "cpu"]
    return CliRunner().invoke(main, ["generate", *words, *map(str, arguments)])


def rows_of(out) -> list[dict]:
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


def test_partitions_give_the_pixels_of_one_machine_and_continue(tmp_path, here, monkeypatch):
    for module in (generate_on_ray, folder):
        monkeypatch.setattr(module, "TOGETHER", 4)
    monkeypatch.setitem(samples_at.__kwdefaults__, "batch_size", 4)
    assert generate("-o", tmp_path / "local").exit_code == 0
    ray = ("--engine", "ray", "--partition-size", 3, "-o", tmp_path / "ray")
    result = generate(*ray)
    assert result.exit_code == 0 and "9 files" in result.output, result.output
    made, expected = rows_of(tmp_path / "ray"), rows_of(tmp_path / "local")
    assert here == [0, 1, 2] and [row | {"file": ""} for row in made] == [row | {"file": ""} for row in expected]
    for row, same in zip(made, expected, strict=True):
        one, other = read_media(tmp_path / "ray" / row["file"], ""), read_media(tmp_path / "local" / same["file"], "")
        assert to_bytes(one) == to_bytes(other)
    [_, _, last] = sorted((tmp_path / "ray").glob("part-*"))
    assert pq.read_table(last).column("file").to_pylist() == ["000002/00008.png"]
    last.unlink()
    (tmp_path / "ray" / "summary.json").unlink()
    assert generate(*ray).exit_code == 0 and here == [0, 1, 2, 2] and rows_of(tmp_path / "ray") == made
    result = generate(*ray)
    assert result.exit_code == 1 and "is complete" in result.output
    (tmp_path / "ray" / "summary.json").unlink()
    result = generate(*ray, "--seed", 3)
    assert result.exit_code == 1 and "other settings (seed)" in result.output


def test_a_url_takes_the_samples(here):
    from visalign.data.generations import find_generations
    from visalign.data.partitions import partitions_of
    from visalign.errors import UserError

    words = ["generate", "tiny-sd3", "a red heart", "--steps", "1", "--samples-per-prompt", "2", "--device", "cpu"]
    result = CliRunner().invoke(main, [*words, "--engine", "ray", "-o", "memory://drawn"])
    assert result.exit_code == 0, result.output
    [part] = partitions_of("memory://drawn", 9).each
    assert [(entry.prompt, entry.sample().media.size) for entry in part.entries()] == [("a red heart", (64, 64))] * 2
    with pytest.raises(UserError):
        find_generations("memory://drawn")


def test_partitions_are_whole_batches():
    parts = cut_places([f"p{i}" for i in range(30)], 3, 40)
    assert [part.places for part in parts] == [range(0, 64), range(64, 90)]
    assert parts[1].first == 21 and parts[1].prompts[0] == "p21" and parts[0].prompts[-1] == "p21"


def test_best_of_is_refused(tmp_path):
    result = generate("-o", tmp_path / "x", "--engine", "ray", "--best-of", 2)
    assert result.exit_code == 1 and "--best-of" in result.output
