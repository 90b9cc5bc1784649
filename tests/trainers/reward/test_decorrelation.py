"""Keeping a reward free of nuisances: the correlation by hand, what the net finds, and what it changes in training."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate import Accelerator
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from visalign.cli import main
from visalign.config.reward import DecorrelateSettings
from visalign.media.samples import to_bytes
from visalign.trainers.reward.decorrelation import Decorrelation, correlation_of


def test_the_correlation_by_hand_and_its_gradient_at_right_angles_to_zero_and_unit():
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True), torch.tensor([1.0, 1, 2, 4])
    rho = correlation_of(a, b.double())
    assert rho.item() == pytest.approx(0.912871, abs=1e-6)
    rho.backward()
    assert a.grad.sum().item() == pytest.approx(0, abs=1e-12)  # a shift of all changes nothing
    assert (a.grad * (a.detach() - a.detach().mean())).sum().item() == pytest.approx(0, abs=1e-12)  # nor does a scale
    assert correlation_of(torch.ones(4), b) == 0


def watcher(**settings) -> Decorrelation:
    return Decorrelation(DecorrelateSettings(features=("brightness", "contrast"), **settings), 1,
                         Accelerator(cpu=True), seed=0)


def test_the_net_learns_what_the_reward_follows_and_the_penalty_sees_it():
    generator = torch.Generator().manual_seed(0)
    found = watcher(warm_up=0.0)
    state = torch.get_rng_state()
    for step in range(1, 65):
        nuisances = torch.randn(16, 2, generator=generator)
        middle = -nuisances[:, :1].square() + 0.3 * torch.randn(16, 1, generator=generator)  # neither dark nor bright
        penalty = found.penalty(middle[:, None], nuisances, done=step / 64)
        row = found.after_step(step)
    assert row["foretold"] > 0.8 and penalty > 0.6
    assert torch.equal(torch.get_rng_state(), state)


def test_it_waits_for_the_warm_up_and_for_samples():
    found = watcher(warm_up=0.5)
    rewards, nuisances = torch.randn(40, 1, 1), torch.randn(40, 2)
    assert found.penalty(rewards, nuisances, 0.9) is None  # nothing was seen before
    assert found.after_step(1) == {}
    found.penalty(rewards, nuisances, 0.1)
    assert "foretold" in found.after_step(2)
    assert found.penalty(rewards, nuisances, 0.4) is None and found.penalty(rewards, nuisances, 0.5) > 0


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The better image of a pair has the stronger stripes, which leave the mean alone. While learning it is brighter as
    well in nine pairs of ten; in the held-out pairs in half."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("biased")
    stripes = np.where(np.arange(32) // 4 % 2, 1.0, -1.0)[None, :, None]

    def rows(count: int, brighter: float) -> list[dict]:
        found = []
        for i in range(count):
            light = (0.7, 0.4) if rng.random() < brighter else (0.4, 0.7)
            sides = []
            for level, strength in zip(light, (rng.uniform(0.06, 0.16), rng.uniform(0.02, 0.12)), strict=True):
                pixels = 255 * (level + strength * stripes) + rng.normal(0, 10, (32, 32, 3))
                sides.append(to_bytes(Image.fromarray(pixels.clip(0, 255).astype(np.uint8))))
            turned = int(rng.random() < 0.5)
            found.append({"prompt": f"number {i}", "a": sides[turned], "b": sides[1 - turned], "quality": "ab"[turned]})
        return found

    for name, count, brighter in (("train", 160, 0.9), ("held", 100, 0.5)):
        pq.write_table(pa.Table.from_pylist(rows(count, brighter)), folder / f"{name}.parquet")
    return folder


def train(tables, folder, steps=60, **train_settings):
    recipe = {"model": {"source": "tiny-clip", "dimensions": ["quality"], "video_only": [], "layers": [1], "width": 16,
                        "attention_heads": 2, "members": 1},
              "data": {"path": str(tables / "train.parquet"), "holdout_path": str(tables / "held.parquet")},
              "objective": {"name": "preference"}, "optim": {"lr": 5e-3},
              "train": {"steps": steps, "batch_size": 16, "bootstrap": False, "device": "cpu"} | train_settings,
              "output": {"folder": str(folder), "trackers": [], "checkpoint_every": steps // 2, "keep_checkpoints": 0}}
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(recipe))
    done = CliRunner().invoke(main, ["reward", "train", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return file


def foretold(folder) -> float:
    """How well the net foretells the reward in the end."""
    return [json.loads(line)["foretold"] for line in (folder / "metrics.jsonl").read_text().splitlines()
            if "foretold" in line][-1]


SETTINGS = {"features": ["brightness"], "weight": 4.0, "warm_up": 0.1}


def test_a_planted_taste_for_brightness_is_followed_less_and_a_killed_run_continues(tables, tmp_path, capsys):
    train(tables, tmp_path / "watched", decorrelate=SETTINGS | {"weight": 1e-9})
    file = train(tables, tmp_path / "free", decorrelate=SETTINGS)
    watched, free = (foretold(tmp_path / name) for name in ("watched", "free"))
    with capsys.disabled():
        print(f"\ncorrelation with what brightness foretells: {watched:.2f}, decorrelated {free:.2f}")
    assert watched > 0.6 and free < watched / 2
    kept = tmp_path / "free" / "checkpoints"
    whole = load_file(kept / "step-00000060" / "trainable.safetensors")
    shutil.rmtree(kept / "step-00000060")
    done = CliRunner().invoke(main, ["reward", "train", str(file), "--resume"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    again = load_file(kept / "step-00000060" / "trainable.safetensors")
    assert again.keys() == whole.keys() and all(torch.equal(again[name], whole[name]) for name in whole)


def test_mistakes_end_in_one_sentence(tables, tmp_path):
    told = {"features names a feature twice": {"decorrelate": {"features": ["contrast", "contrast"]}},
            "brightness": {"decorrelate": {"features": ["light"]}}, "features": {"decorrelate": {}}}
    for words, settings in told.items():
        file = tmp_path / "bad.yaml"
        file.write_text(yaml.safe_dump({"data": {"path": "x.parquet"}, "train": settings}))
        done = CliRunner().invoke(main, ["reward", "train", str(file)])
        assert done.exit_code == 1 and words in done.output, done.output
    file.write_text(yaml.safe_dump({
        "data": {"path": "x.parquet"}, "objective": {"name": "general"},
        "model": {"dimensions": ["quality"], "video_only": [], "general": {"blocks": 2}},
        "train": {"decorrelate": {"features": ["contrast"]}}}))
    done = CliRunner().invoke(main, ["reward", "train", str(file)])
    assert done.exit_code == 1 and "model.general gives it none" in done.output, done.output
