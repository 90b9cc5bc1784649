"""The embedded unified reward on drawings and corruptions it never saw, made anew from a seed of its own."""

import importlib.util
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from visalign.data.annotations import read_annotations
from visalign.jobs.reward_eval import evaluate_reward
from visalign.storage.open_clip_models import CLIP_ASSETS

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "build_reward_data.py"
DIMENSIONS = ("alignment", "quality", "motion")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("build_reward_data", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    file = tmp_path_factory.mktemp("held_out") / "annotations.parquet"
    pq.write_table(script.build(script.Drawings("held_out"), 500, 0.3, seed=77), file)
    return read_annotations(str(file), DIMENSIONS)


def accuracies(spec, items, folder):
    return {name: report.overall.accuracy for name, report in evaluate_reward(spec, items, folder, edits=False).items()}


@pytest.mark.slow
def test_it_reaches_nine_tenths_and_beats_tiny_clip(held_out, tmp_path):
    ours = accuracies("tiny-reward", held_out, tmp_path / "ours")
    clip = accuracies({"kind": "frames", "of": ["tiny-clip"]}, held_out, tmp_path / "clip")
    for name in ("alignment", "quality"):
        assert ours[name].value >= 0.90, ours
        assert ours[name].value > clip[name].value, (ours, clip)
    assert ours["motion"].value >= 0.90, ours


def test_it_beats_tiny_clip_on_images_alone(held_out, tmp_path):
    images = [item for item in held_out if not item.kind.startswith("video_")]
    ours, clip = (accuracies(name, images, tmp_path / name) for name in ("tiny-reward", "tiny-clip"))
    assert ours["alignment"].value > clip["alignment"].value and ours["quality"].value > clip["quality"].value + 0.2


def test_its_card_says_how_labels_were_made_and_its_folder_is_complete():
    card = (CLIP_ASSETS / "tiny-reward" / "README.md").read_text()
    for word in ("corrupt", "held-out", "nobody", "blur", "wrong_image"):
        assert word in card.lower()
    settings = json.loads((CLIP_ASSETS / "tiny-reward" / "reward.json").read_text())
    assert settings["model"]["dimensions"] == list(DIMENSIONS) and settings["model"]["source"] == "."
    assert '"/' not in json.dumps(settings)  # no absolute path
