"""`visalign bench` as typed: what is missing is made, the suite's table is printed, and mistakes are one sentence."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.evaluation.suites.test_geneval import tiny_boxes
from visalign.cli import main
from visalign.evaluation.suites import detection, geneval
from visalign.evaluation.suites.detection import Detection
from visalign.media.samples import Video
from visalign.media.video_files import write_media

PROMPTS = ["a red square", "a blue square", "two squares"]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A suite of three prompts, two images of each of the first two, and a detector that calls red images cats."""
    monkeypatch.chdir(tmp_path)
    tasks = [("colors", 1), ("colors", 1), ("counting", 2)]
    (tmp_path / "suite.jsonl").write_text("".join(json.dumps(
        {"tag": tag, "include": [{"class": "cat", "count": count}], "exclude": [], "prompt": prompt}) + "\n"
        for (tag, count), prompt in zip(tasks, PROMPTS, strict=True)))
    (tmp_path / "made").mkdir()
    rows = []
    for p, colour in enumerate(("red", "blue")):
        for k in range(2):
            Image.new("RGB", (16, 16), colour if k == 0 else "red").save(tmp_path / "made" / f"{p}-{k}.png")
            rows.append(json.dumps({"prompt": PROMPTS[p], "file": f"{p}-{k}.png", "seed": k}))
    (tmp_path / "made" / "samples.jsonl").write_text("\n".join(rows) + "\n")
    tiny_boxes(tmp_path / "detector")

    def detect(self, image, threshold):
        return [Detection("cat", 0.95, (0, 0, 8, 8))] if image.convert("RGB").getpixel((0, 0))[0] > 128 else []

    monkeypatch.setattr(detection.Detector, "detect", detect)
    assert geneval.Detector is detection.Detector
    return tmp_path


def bench(*arguments):
    return CliRunner().invoke(main, ["bench", *arguments])


def test_a_folder_s_table_with_intervals_and_what_it_lacks(desk):
    done = bench("geneval:suite.jsonl", "made", "--with", "detector=detector", "-o", "out")
    assert done.exit_code == 0, done.output
    assert "made: 2 of 3 prompts" in done.output
    assert "* overall (mean of tasks) 0.750 [" in " ".join(done.output.split())
    [kept] = json.loads((desk / "out" / "results.json").read_text())
    assert (kept["model"], kept["prompts"], kept["of"], kept["refused"]) == ("made", 2, 3, [])
    assert [(each["name"], each["value"], each["count"]) for each in kept["figures"]] == [
        ("images", 0.75, 4), ("prompts with a right image", 1.0, 2), ("colors", 0.75, 4), ("overall (mean of tasks)",
        0.75, 4)]
    again = bench("geneval:suite.jsonl", "made", "--with", "detector=detector", "-o", "out")
    assert again.exit_code == 1 and "already holds results" in again.output


def test_what_a_model_has_not_made_is_made_as_often_as_asked(desk):
    done = bench("geneval:suite.jsonl", "tiny=tiny-sd3", "made", "--with", "detector=detector", "--steps", "1",
                 "--guidance-scale", "1", "--samples-per-prompt", "1", "--set", "attention=math", "-o", "out")
    assert done.exit_code == 0, done.output
    assert "tiny: 3 of 3 prompts" in done.output and "made: 2 of 3 prompts" in done.output
    assert len(list((desk / "out" / "samples" / "tiny").glob("*.png"))) >= 3


def test_samples_that_cannot_be_scored_are_told_and_too_many_end_it(desk):
    (desk / "made" / "0-1.png").write_bytes(b"no image")
    done = bench("geneval:suite.jsonl", "made", "--with", "detector=detector", "-o", "out")
    assert done.exit_code == 0 and "1 samples were left out: " in done.output and "0-1.png" in done.output
    for name in ("0-0.png", "1-0.png"):
        (desk / "made" / name).write_bytes(b"no image")
    done = bench("geneval:suite.jsonl", "made", "--with", "detector=detector", "-o", "again")
    assert done.exit_code == 1 and "3 of 4 samples could not be scored; the first: " in done.output
    assert not (desk / "again" / "results.json").exists()


@pytest.mark.parametrize("arguments, said", [
    (("genevil:suite.jsonl", "made"), "did you mean 'geneval'"),
    (("geneval:suite.jsonl", "made", "--with", "detectr=x"), "has no setting detectr (did you mean 'detector'?)"),
    (("geneval:suite.jsonl", "made", "--with", "threshold=2"), "threshold"),
    (("geneval:suite.jsonl", "made", "--with", "threshold"), "expected KEY=VALUE"),
    (("geneval:suite.jsonl", "made", "--with", "detector=./none"), "./none is neither a folder nor a hub id"),
    (("geneval:suite.jsonl", "made", "--with", "detector=made"), "made has no config.json"),
    (("geneval:suite.jsonl", "nowhere", "--with", "detector=detector"), "nowhere"),
    (("geneval:suite.jsonl", "empty", "--with", "detector=detector"), "holds no generation of the suite's prompts"),
    (("geneval:suite.jsonl", "answers", "--with", "detector=detector"), "makes texts"),
    (("dpg-bench:prompts", "made"), "no such folder of prompt files"),
    (("vbench:lines.txt", "made"), "the suites are of images and videos"),
    (("text:lines.txt", "made"), "quotes no text that could be read")])
def test_mistakes_are_one_sentence_before_a_model_is_loaded(desk, monkeypatch, arguments, said):
    monkeypatch.setattr(detection.Detector, "__init__", None)  # whoever loads it fails in another way
    (desk / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(desk / "empty" / "x.png")
    (desk / "empty" / "x.txt").write_text("another prompt")
    (desk / "answers").mkdir()
    (desk / "answers" / "samples.jsonl").write_text('{"prompt": "Why?", "answer": "So."}\n')
    (desk / "lines.txt").write_text("a red square\n")
    arguments = tuple("answers" if each == "made" and arguments[0].startswith("vbench") else each for each in arguments)
    done = bench(*arguments, "-o", "out")
    assert done.exit_code in (1, 2) and "Traceback" not in done.output and said in " ".join(done.output.split())


def test_videos_flicker(desk):
    frames = [Image.new("RGB", (16, 16), (value, value, value)) for value in (100, 100, 100)]
    (desk / "videos").mkdir()
    write_media(Video(frames, 8.0), desk / "videos" / "still", "mkv")
    (desk / "videos" / "still.txt").write_text("a red square")
    (desk / "lines.txt").write_text("a red square\n")
    done = bench("vbench:lines.txt", "videos", "-o", "out")
    assert done.exit_code == 0 and "* temporal_flickering  1.000 (one prompt, no interval)" in done.output
    done = bench("vbench:lines.txt", "made", "-o", "other")
    assert done.exit_code == 1 and "is of kind image; this suite scores videos" in done.output
