"""Training a latent reward and following it, through the command line a user types."""

import json

import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from tests.families import TINY, load_tiny
from visalign.cli import main
from visalign.guidance import GuideReward, load_guide
from visalign.media.samples import Sample, Video
from visalign.media.video_files import read_media, to_video_bytes


def invoke(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def annotations(tmp_path):
    """Bright videos are of better quality, those that move are of better motion; VideoGen-RewardBench's columns."""
    rows = []
    for i in range(12):
        for side, grey, step in (("A", 230, 2), ("B", 60, 0)):
            frames = []
            for k in range(5):
                frames.append(Image.new("RGB", (32, 16), (grey, 40 * (i % 3), 90)))
                frames[-1].paste("white", (4 + step * k, 4, 12 + step * k, 12))
            (tmp_path / f"{i}{side}.mp4").write_bytes(to_video_bytes(Video(frames, 8.0)))
        first, second = ("A", "B") if i % 2 else ("B", "A")
        rows.append({"prompt": f"a {'red' if i % 2 else 'blue'} square", "path_A": f"{i}{first}.mp4",
                     "path_B": f"{i}{second}.mp4", "VQ": "A" if i % 2 else "B",
                     "MQ": "same" if i % 5 == 0 else "A" if i % 2 else "B"})
    (tmp_path / "j.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "j.jsonl"


@pytest.fixture
def guide_recipe(tmp_path, annotations, pipelines):
    def write(name="guide.yaml", model="wan", **sections):
        content = {
            "model": {"source": str(pipelines(model)), "precision": "fp32", "prompt_tokens": 8} | TINY[model].settings,
            "head": {"dimensions": ["VQ", "MQ"], "blocks": [0], "width": 16, "attention_heads": 2},
            "data": {"path": str(annotations), "holdout_path": str(annotations), "cache": str(tmp_path / "cache")},
            "objective": {"name": "preference", "ties": "rao_kupper"}, "optim": {"lr": 0.01},
            "train": {"steps": 30, "batch_size": 6, "device": "cpu"},
            "output": {"folder": str(tmp_path / "guide-run"), "checkpoint_every": 10, "trackers": []}}
        for section, values in sections.items():
            content[section] = content[section] | values if isinstance(values, dict) else values
        (tmp_path / name).write_text(yaml.safe_dump(content))
        return tmp_path / name

    return write


def test_it_learns_is_followed_and_swept(guide_recipe, tmp_path, pipelines):
    done = invoke("guide", "train", guide_recipe())
    assert done.exit_code == 0, done.output
    run = tmp_path / "guide-run"
    accuracy = json.loads((run / "accuracy.json").read_text())
    assert accuracy["VQ"]["0.1"]["value"] > 0.9 and set(accuracy["MQ"]) == {"0.1", "0.3", "0.5", "0.7", "0.9"}
    assert accuracy["MQ"]["0.1"]["annotations"] == 9 and accuracy["VQ"]["0.1"]["low"] <= accuracy["VQ"]["0.1"]["value"]
    head = json.loads((run / "guide" / "guide.json").read_text())
    assert head["network"] == "WanPipeline" and head["accuracy"] == accuracy
    shape = ("--set", "resolution=[16,32]", "--set", "frames=5", "--set", "prompt_tokens=8", "--precision", "fp32")
    common = ("generate", pipelines("wan"), "a red square", "--samples-per-prompt", 2, "--steps", 6, *shape)
    assert invoke(*common, "-o", tmp_path / "plain").exit_code == 0
    guided = invoke(*common, "-o", tmp_path / "guided", "--guide", "VQ=8,MQ=0", "--guide-from", run,
                    "--guide-range", "1:0")
    assert guided.exit_code == 0, guided.output
    assert (tmp_path / "plain" / "00000.mp4").read_bytes() != (tmp_path / "guided" / "00000.mp4").read_bytes()
    assert json.loads((tmp_path / "guided" / "settings.json").read_text())["weights"] == {"VQ": 8.0, "MQ": 0.0}
    (tmp_path / "p.txt").write_text("a red square\na blue square\n")
    swept = invoke("guide", "sweep", pipelines("wan"), run, "--weights", "0,4,16", "--prompts", tmp_path / "p.txt",
                   "--samples-per-prompt", 2, "--steps", 4, *shape[:-2], "--set", "precision=fp32",
                   "-r", "saturation,motion", "-o", tmp_path / "sweep")
    assert swept.exit_code == 0, swept.output
    assert "weight 16" in swept.output
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "How hard the guide can be followed" in page and "weight of the guide" in page
    figures = json.loads((tmp_path / "sweep" / "results.json").read_text())["figures"]
    assert all("reward/guide VQ" in figures[f"weight {weight}"] for weight in (0, 4, 16))
    generator = load_tiny(pipelines("wan"), "wan")
    reward = GuideReward(lambda: load_guide(run, generator), "VQ", "video")
    bright, dark = (Sample("a red square").with_media(read_media(tmp_path / f"1{side}.mp4", side, 5)) for side in "AB")
    values = reward.score([bright, dark, bright]).values[:, 0]
    assert values[0] > values[1] and values[0] == pytest.approx(values[2].item(), abs=1e-4)
    again = invoke("guide", "sweep", pipelines("wan"), run, "--prompts", tmp_path / "p.txt", "-o", tmp_path / "sweep")
    assert again.exit_code == 1 and "already holds results" in again.output


def test_a_killed_training_continues_to_the_same_guide(guide_recipe, tmp_path):
    import shutil

    recipe = guide_recipe(train={"steps": 6}, output={"checkpoint_every": 2, "keep_checkpoints": 0})
    assert invoke("guide", "train", recipe).exit_code == 0
    run = tmp_path / "guide-run"
    whole = load_file(run / "guide" / "guide.safetensors")
    for step in (4, 6):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    shutil.rmtree(run / "guide")
    assert invoke("guide", "train", recipe, "--resume").exit_code == 0
    again = load_file(run / "guide" / "guide.safetensors")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("arguments, words", [
    (("--guide", "VQ=1"), "--guide NAME=WEIGHT,... and --guide-from RUN belong together"),
    (("--guide", "VQ", "--guide-from", "."), "guide 'VQ': NAME=WEIGHT is expected"),
    (("--guide", "VQ=1", "--guide-from", "."), "not a guide's folder"),
    (("--guide", "VQ=1", "--guide-from", ".", "--guide-range", "1"), "two numbers separated by a colon"),
    (("--set", "frame=3"), "unknown key model.frame (did you mean 'frames'?)"),
])
def test_wrong_guiding_ends_in_one_sentence(pipelines, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = invoke("generate", pipelines("wan"), "a", "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 1 and words in done.output and "Traceback" not in done.output


def test_annotations_of_images_name_their_row(guide_recipe, tmp_path, pairs_file):
    rows = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    (tmp_path / "images.jsonl").write_text("\n".join(
        json.dumps({"prompt": row["prompt"], "a": row["chosen"], "b": row["rejected"], "VQ": "a"}) for row in rows))
    done = invoke("guide", "train", guide_recipe(data={"path": str(tmp_path / "images.jsonl"),
                                                       "holdout_path": None, "holdout": 0.0}))
    assert done.exit_code == 1 and "line 1: holds an image, and WanPipeline makes videos" in done.output
