"""DeepSpeed's ZeRO-2 learns what one process does; where DeepSpeed is installed."""

import importlib.util

import pytest
import torch

from tests.parallel.several import QUIET, same, several
from tests.trainers.commands import rows, run, weights

pytestmark = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs visalign[deepspeed]")


def test_two_processes_with_parts_of_the_optimiser_learn_what_one_does(recipe, online_recipe, tmp_path):
    whole = {"model": {"tuning": "full", "gradient_checkpointing": True}, "optim": {"lr": 1e-4, "ema_decay": 0.9}}
    runs = {"lora": (recipe("sd3", name="lora.yaml", optim={"ema_decay": 0.9}, train={"gradient_accumulation": 3},
                            guard={"action": "rollback", "every": 2, "max_prompts": 1}), "train.batch_size=1"),
            "full": (recipe("sdxl", name="full.yaml", eval=QUIET, train={"steps": 2}, **whole), "train.batch_size=1"),
            "grpo": (online_recipe("sdxl", "grpo", name="grpo.yaml", eval=QUIET, objective={"beta": 0.1},
                                   train={"epochs": 2, "updates_per_epoch": 2}, rollout={"prompts_per_epoch": 4}),
                     "rollout.batch_size=2")}
    for name, (file, _) in runs.items():
        run(file, f"output.folder={tmp_path / 'one' / name}")
    several(tmp_path, "zero", *(["train", file, f"output.folder={tmp_path / 'two' / name}", half]
                                for name, (file, half) in runs.items()))
    for name in ("lora", "full"):
        same(tmp_path / "one" / name, tmp_path / "two" / name, atol=1e-5, rtol=1e-3)
    names = ("reward", "trained_samples", "loss", "update_norm")
    same(tmp_path / "one" / "grpo", tmp_path / "two" / "grpo", names, atol=2e-4, rtol=1e-2)


def test_a_run_continues_with_and_without_deepspeed(recipe, tmp_path):
    file = recipe("sd3", eval=QUIET, optim={"ema_decay": 0.9}, train={"batch_size": 4},
                  output={"checkpoint_every": 1, "keep_checkpoints": 0})

    def at(name: str, steps: int, batch: int) -> list:
        return [file, f"output.folder={tmp_path / name}", f"train.steps={steps}", f"train.batch_size={batch}"]

    run(*at("whole", 3, 4))
    run(*at("parts", 1, 4))
    several(tmp_path, "zero", ["train", *at("parts", 2, 2), "--resume"])
    run(*at("parts", 3, 4), "--resume")
    expected, found = weights(tmp_path / "whole", 3), weights(tmp_path / "parts", 3)
    for tensor in expected:
        torch.testing.assert_close(found[tensor], expected[tensor], atol=1e-5, rtol=1e-3)
    assert [row["step"] for row in rows(tmp_path / "parts")] == [1, 2, 3]
