"""Every reward recipe validates and trains on something tiny; every reward in configs/rewards/ can be built."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.config import RewardConfig
from visalign.config.load import load_config
from visalign.media.samples import Sample, Video
from visalign.rewards import build_reward, load_reward
from visalign.rewards.bias import FEATURES
from visalign.storage.weights import write_tensors

from ..rewards.tiny_vlm import build_tiny_vlm

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = sorted((CONFIGS / "reward_model").glob("*.yaml"))
REWARDS = sorted((CONFIGS / "rewards").glob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe_trains_on_a_tiny_backbone(file, tmp_path):
    config = load_config(file, (), RewardConfig)
    lines = []
    for i, prompt in enumerate(["red fruit", "blue bird", "green plant", "black heart"]):  # words that recipes change
        colour = prompt.split()[0]
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{i}.png")
        single = {"prompt": prompt, "media": f"{i}.png", "quality": "good" if i % 2 else "bad"}
        pair = {"prompt": prompt, "a": f"{i}.png", "b": f"{max(0, i - 1)}.png", "quality": "tie" if i == 2 else "a"}
        pair |= {"user": f"user {i % 2}", "alignment": "a", "flip_chance": 0.3 * i, "margin": 1.0 - i}
        lines.append(json.dumps(single if config.objective["ties"] == "win_tie" else pair))
    tables = [tmp_path / f"{number}.jsonl" for number in range(len(config.data.paths) if config.data.balance else 1)]
    for table in tables:
        table.write_text("\n".join(lines))
    source = build_tiny_vlm(tmp_path / "vlm") if config.model.backbone == "vlm" else "tiny-clip"
    layers = [] if config.model.backbone == "vlm" else [1, 3]
    result = CliRunner().invoke(
        main,
        [
            "--debug",
            "reward",
            "train",
            str(file),
            f"model.source={source}",
            f"model.layers={layers}",
            "model.width=32",
            "train.steps=2",
            "train.batch_size=2",
            "train.device=cpu",
            "train.precision=fp32",
            f"data.path={tables[0] if len(tables) == 1 else json.dumps(list(map(str, tables)))}",
            "data.holdout=0",
            "data.holdout_path=null",
            "output.trackers=[]",
            f"output.folder={tmp_path / 'run'}",
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "reward" / "reward.safetensors").is_file()


@pytest.mark.parametrize("file", REWARDS, ids=lambda file: file.stem)
def test_reward_can_be_built_and_scores_where_it_needs_no_server(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(file, tmp_path)
    columns = [
        "tiny-reward.alignment",
        "tiny-reward.quality",
        "tiny-reward.motion",
        "tiny-clip.alignment",
        "sharpness.score",
        "contrast.score",
        "clip_direction.direction",
        "background_kept.score",
    ]
    pq.write_table(pa.table({"prompt": ["a red fruit"] * 3, **{c: [0.0, 0.5, 1.0] for c in columns}}), "base.parquet")
    (tmp_path / "bias.json").write_text(
        json.dumps(
            {
                "bias": {
                    "mean": [0.0] * 6,
                    "std": [1.0] * 6,
                    "coefficients": [0.0] * 12,
                    "before": dict.fromkeys(FEATURES, 0.0),
                    "after": dict.fromkeys(FEATURES, 0.0),
                    "samples": 50,
                }
            }
        )
    )
    write_tensors(tmp_path / "direction.safetensors", {"direction": torch.full((128,), 0.01)})
    write_tensors(tmp_path / "map.safetensors", {"matrix": torch.eye(128), "shift": torch.zeros(128)})
    ones = torch.ones(load_reward("tiny-reward").network.backbone.features)
    write_tensors(tmp_path / "centres.safetensors", {"mean": 0 * ones, "std": ones, "centres": 0 * ones[None],
                                                     "within": torch.tensor(0.1), "scale": torch.ones(3)})
    reward = build_reward(file.name)
    assert reward.name == file.stem and reward.__doc__
    if "url" in file.read_text():
        return
    reward.check()
    source, red = Image.new("RGB", (64, 64), "blue"), Image.new("RGB", (64, 64), "red")
    media = red if "image" in reward.modalities else Video([red, source, red], 8.0)
    answer = reward.score([Sample("a red fruit", media, sources=(source,))])
    assert answer.values.isfinite().all(), answer.remarks
