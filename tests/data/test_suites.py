"""Prompts of public suites, and the folders their scripts read."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.data.diversity_prompts import FAMILIES, family_rows
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.media.samples import Video
from visalign.media.video_files import to_video_bytes

PROMPTS = ["a photo of a cat", "a red cup and a blue cup"]


@pytest.fixture
def made(tmp_path):
    """A folder of five generations of each prompt."""
    folder = tmp_path / "made"
    folder.mkdir()
    lines = []
    for p, prompt in enumerate(PROMPTS):
        for k in range(5):
            Image.new("RGB", (16, 16), (60 * p, 40 * k, 99)).save(folder / f"{p}-{k}.png")
            lines.append(json.dumps({"prompt": prompt, "image": f"{p}-{k}.png", "seed": k}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def lay_out(*arguments):
    return CliRunner().invoke(main, ["benchmark", "layout", *map(str, arguments)])


def test_geneval(made, tmp_path):
    file = tmp_path / "evaluation_metadata.jsonl"
    rows = [{"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": PROMPTS[0]},
            {"tag": "colors", "include": [], "prompt": "a photo of nothing made"}, {"tag": "x", "prompt": PROMPTS[1]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_prompts(f"geneval:{file}") == [row["prompt"] for row in rows]
    result = lay_out(made, "--suite", f"geneval:{file}", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "1 prompts of the suite have too few" in result.output
    assert json.loads((tmp_path / "out" / "00000" / "metadata.jsonl").read_text()) == rows[0]
    assert sorted(f.name for f in (tmp_path / "out" / "00002" / "samples").iterdir()) == [
        f"{k:05d}.png" for k in range(5)]
    assert not (tmp_path / "out" / "00001").exists()


def test_t2i_compbench_names_files_by_prompt(made, tmp_path, monkeypatch):
    from dataclasses import replace

    from visalign.data import suites

    file = tmp_path / "color_val.txt"
    file.write_text(f"{PROMPTS[1]}\n")
    refused = lay_out(made, "--suite", f"t2i-compbench:{file}", "-o", tmp_path / "out")
    assert refused.exit_code == 1 and "has 10 generations" in refused.output
    monkeypatch.setitem(suites.SUITES, "t2i-compbench", replace(suites.SUITES["t2i-compbench"], needed=5))
    assert lay_out(made, "--suite", f"t2i-compbench:{file}", "-o", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "samples" / "a red cup and a blue cup_000004.png").is_file()


def test_dpg_bench_puts_four_in_a_square(made, tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "partiprompts12.txt").write_text(PROMPTS[0] + "\n")
    result = lay_out(made, "--suite", f"dpg-bench:{tmp_path / 'prompts'}", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out" / "partiprompts12.png") as image:
        assert image.size == (32, 32)
        assert [image.getpixel(at)[1] for at in ((2, 2), (20, 2), (2, 20), (20, 20))] == [0, 40, 80, 120]


def test_vbench_takes_videos(tmp_path):
    file = tmp_path / "VBench_full_info.json"
    file.write_text(json.dumps([{"prompt_en": "a cat runs", "dimension": ["motion_smoothness"]},
                                {"prompt_en": "a cat runs", "dimension": ["scene"]}]))
    assert read_prompts(f"vbench:{file}") == ["a cat runs"]
    lines = []
    for k in range(5):
        video = Video([Image.new("RGB", (32, 32), (c * 60, 0, 0)) for c in range(4)], 8.0)
        (tmp_path / f"{k}.mp4").write_bytes(to_video_bytes(video))
        lines.append(json.dumps({"prompt": "a cat runs", "video": f"{k}.mp4", "seed": k}))
    (tmp_path / "clips.jsonl").write_text("\n".join(lines))
    result = lay_out(tmp_path / "clips.jsonl", "--suite", f"vbench:{file}", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [f"a cat runs-{k}.mp4" for k in range(5)]


def test_wrong_suites_files_and_folders_end_in_one_sentence(made, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"tag": 1}\n')
    for suite, message in ((f"genevall:{broken}", "did you mean 'geneval'"),
                           (f"geneval:{tmp_path / 'no'}", "there is no such file"),
                           (f"geneval:{broken}", "line 1 has no 'prompt'")):
        result = lay_out(made, "--suite", suite, "-o", tmp_path / "out")
        assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    good = tmp_path / "good.txt"
    good.write_text(PROMPTS[0])
    assert "is not empty" in lay_out(made, "--suite", f"vbench:{good}", "-o", tmp_path / "full").output
    assert "is not a single video file" in lay_out(made, "--suite", f"vbench:{good}", "-o", tmp_path / "new").output


def test_families_leave_something_open():
    for axis in ("identity", "style", "layout", "tone"):
        prompts = read_prompts(f"families:{axis}")
        assert len(prompts) == len(set(prompts)) >= 20
        assert len(read_prompts(f"families:tiny-{axis}")) >= 10
    every = read_prompts("families:all")
    assert len(every) == sum(len(read_prompts(f"families:{axis}")) for axis in FAMILIES)
    assert [every[p] for p in family_rows(every, "tone")] == read_prompts("families:tone")
    assert family_rows(["mine", "yours"], "tone") == [0, 1]
    assert {"a fruit", "a red fruit"} & set(read_prompts("families:tiny-all"))
    with pytest.raises(UserError, match="did you mean 'layout'"):
        read_prompts("families:layuot")
