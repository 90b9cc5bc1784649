"""Sample folders of edits keep their source images; score, pairs and compare see them, and pages show them."""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
from PIL import Image

from visalign.config import DataSettings
from visalign.data.generations import find_generations
from visalign.data.preferences import read_pairs
from visalign.errors import UserError
from visalign.evaluation.matching import match
from visalign.jobs.make_pairs import PairSettings, make_pairs
from visalign.jobs.score import score_generations
from visalign.media.source_images import SourceCount, prompt_group, source_images_of, with_sources, words_of
from visalign.rewards.reference import read_reference
from visalign.sampling.folder import write_generations

COLOURS = ("red", "blue")


@pytest.fixture
def folder(tmp_path):
    """Two results each of one instruction on two sources; the second result of each is its source again."""
    rows = []
    (tmp_path / "made" / "sources").mkdir(parents=True)
    for name in COLOURS:
        Image.new("RGB", (32, 32), name).save(tmp_path / "made" / "sources" / f"{name}.png")
        for seed, colour in enumerate(("green", name)):
            Image.new("RGB", (32, 32), colour).save(tmp_path / "made" / f"{name}-{seed}.png")
            rows.append({"prompt": "make it green", "sources": [f"sources/{name}.png"], "file": f"{name}-{seed}.png",
                         "seed": seed})
    (tmp_path / "made" / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "made"


class Copier:
    """A model of edits that does nothing."""

    text_of, text_encoders = staticmethod(words_of), dict
    check_prompts = SourceCount("an edit").check

    def sample(self, prompts, seeds, steps, guidance_scale, batch_size):
        yield [source_images_of(prompt)[0] for prompt in prompts]


def test_generate_keeps_the_sources_and_the_folder_may_be_moved(tmp_path):
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    Image.new("L", (40, 20), 255).save(tmp_path / "m.png")
    prompt = with_sources("move", [tmp_path / "a.png"], {"mask": str(tmp_path / "m.png"), "requirement": "all"})
    write_generations(Copier, [prompt], tmp_path / "made", {}, samples=1, steps=1, guidance_scale=1.0, seed=0)
    before = find_generations(tmp_path / "made")[0].group
    for name in ("a.png", "m.png"):
        (tmp_path / name).unlink()
    shutil.move(tmp_path / "made", tmp_path / "moved")
    [entry] = find_generations(tmp_path / "moved")
    sample = entry.sample()
    assert (sample.prompt, sample.known["requirement"]) == ("move", "all") and entry.group == before
    assert sample.sources[0].getpixel((0, 0)) == (255, 0, 0)
    assert sample.known["mask"].startswith(str(tmp_path / "moved" / "sources"))


def test_scores_tell_sources_apart_and_the_gallery_shows_them(folder, tmp_path):
    out = tmp_path / "scores.parquet"
    summary = score_generations(str(folder), ["source_change"], out)
    table = pq.read_table(out)
    assert table.column("prompt").to_pylist() == ["make it green"] * 4
    values = table.column("source_change.score").to_pylist()
    assert values[1] == values[3] == 0 and values[0] > 0.3
    groups = table.column("group").to_pylist()
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert groups[0] == prompt_group(f"make it green@@{folder}/sources/red.png")
    reference = read_reference(str(out), ("source_change.score",), 1)
    assert len(reference.of_prompt(groups[0])) == 2
    assert summary.gallery.read_text().count('class="source"') == 4


def test_pairs_are_made_within_a_source_and_name_it(folder, tmp_path):
    make_pairs(str(folder), ["source_change"], tmp_path / "pairs", PairSettings())
    pairs = list(read_pairs(DataSettings(path=str(tmp_path / "pairs" / "pairs.parquet"))))
    assert len(pairs) == 2
    assert [(pair.prompt, pair.sources[0].rpartition("/")[2]) for pair in pairs] == [
        ("make it green", "red.png"), ("make it green", "blue.png")]
    assert all(pair.chosen.endswith("-0.png") for pair in pairs)


def test_models_are_matched_by_what_their_sources_hold(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    for i, name in enumerate(COLOURS):  # the same images under other names
        (other / "sources" / f"{name}.png").rename(other / "sources" / f"{i}.png")
    text = (other / "samples.jsonl").read_text()
    (other / "samples.jsonl").write_text(text.replace("sources/red", "sources/0").replace("sources/blue", "sources/1"))
    found = match({name: find_generations(path) for name, path in (("base", folder), ("tuned", other))})
    assert len(found.prompts) == 2 and found.seeds == 2
    assert all(re.fullmatch("make it green@@[0-9a-f]{12}", prompt) for prompt in found.prompts)


def test_a_source_that_is_missing_or_outside_is_a_row_with_its_reason(folder, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    rows = (folder / "samples.jsonl").read_text().splitlines()
    rows[0] = rows[0].replace("sources/red.png", "../secret.png")
    rows[1] = rows[1].replace("sources/red.png", "sources/gone.png")
    (folder / "samples.jsonl").write_text("\n".join(rows))
    outside, gone, *_ = find_generations(folder)
    assert "lies outside" in outside.problem and "gone.png, which does not exist" in gone.problem
    with pytest.raises(UserError, match="lies outside"):
        outside.sample()
