"""Processes that hold parts of the network learn what one process does, and continue each other's runs."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.parallel.several import QUIET, same, several
from tests.programs import environments
from tests.trainers.commands import ENVIRONMENT, fails, rows, run, weights
from visalign.config.load import load_config
from visalign.generators.hardware.weightless import Weightless
from visalign.jobs.memory_plan import plan_memory
from visalign.jobs.memory_sizes import PassSizes

REPOSITORY = Path(__file__).resolve().parents[2]


def test_two_processes_with_parts_learn_what_one_does(recipe, online_recipe, tmp_path, monkeypatch):
    whole = {"model": {"tuning": "full", "gradient_checkpointing": True}, "optim": {"lr": 1e-4, "ema_decay": 0.9}}
    offline = {"lora": recipe("sd3", name="lora.yaml", optim={"ema_decay": 0.9}, train={"gradient_accumulation": 2},
                              guard={"action": "rollback", "every": 2, "max_prompts": 1}),
               "full": recipe("sdxl", name="full.yaml", eval=QUIET, train={"steps": 2}, **whole)}
    online = {"grpo": online_recipe("sdxl", "grpo", name="grpo.yaml", eval=QUIET, objective={"beta": 0.1},
                                    train={"epochs": 2, "updates_per_epoch": 2}, rollout={"prompts_per_epoch": 4}),
              "nft": online_recipe("sd3", "nft", name="nft.yaml", eval=QUIET, train={"epochs": 2},
                                   rollout={"sampler": "ode"}, **whole)}
    half = {name: "train.batch_size=1" for name in offline} | {name: "rollout.batch_size=2" for name in online}
    for name, file in (offline | online).items():
        run(file, f"output.folder={tmp_path / 'one' / name}")
    said = several(tmp_path, "fsdp2", *(["train", file, f"output.folder={tmp_path / 'two' / name}", half[name]]
                                        for name, file in (offline | online).items()))
    for name in offline:
        same(tmp_path / "one" / name, tmp_path / "two" / name, atol=2e-5, rtol=1e-3)
    for name in online:
        names = ("reward", "trained_samples", "loss", "update_norm")
        same(tmp_path / "one" / name, tmp_path / "two" / name, names, atol=2e-4, rtol=1e-2)
    for kind in ("held_out", "guard"):
        first, second = rows(tmp_path / "one" / "lora", kind), rows(tmp_path / "two" / "lora", kind)
        assert first[0]["values"] == second[0]["values"] and len(first) == len(second) > 1
    best = [load_file(tmp_path / each / "lora" / "guard" / "best.safetensors") for each in ("one", "two")]
    assert {name: value.shape for name, value in best[0].items()} == {n: value.shape for n, value in best[1].items()}
    held = [list(map(int, line.split()[1:])) for line in said.splitlines() if line.startswith("BYTES ")]
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for file, measured in zip(offline.values(), held, strict=False):
        config = load_config(file)
        plan = plan_memory(config, PassSizes(Weightless(config.model, torch.device("cpu")))).held
        weights = sum(plan.get(name, 0) for name in ("frozen weights", "trained weights", "frozen copy"))
        assert [weights, plan["optimiser"]] == measured
    assert len(list((tmp_path / "two" / "full" / "checkpoints" / "step-00000002").glob("shard-*"))) == 2


def launched(*words) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", REPOSITORY / "configs/accelerate/"
               "fsdp2.yaml", "--num_processes", "2", "--main_process_port", environments(1)[0]["MASTER_PORT"], "-m",
               "visalign", *words]
    done = subprocess.run([str(word) for word in command], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("next:") == 1, done.stdout[-1000:] + done.stderr[-3000:]


def test_a_run_continues_on_another_number_of_processes(recipe, tmp_path):
    file = recipe("sd3", eval=QUIET, optim={"ema_decay": 0.9}, train={"batch_size": 4},
                  output={"checkpoint_every": 1, "keep_checkpoints": 0})

    def at(name: str, steps: int, batch: int) -> list:
        return [file, f"output.folder={tmp_path / name}", f"train.steps={steps}", f"train.batch_size={batch}"]

    run(*at("whole", 3, 4))
    run(*at("a", 1, 4))
    several(tmp_path, "groups", ["train", *at("b", 1, 1)], count=4)
    several(tmp_path, "fsdp2", ["train", *at("a", 2, 2), "--resume"], ["train", *at("b", 2, 2), "--resume"])
    several(tmp_path, "ddp", ["train", *at("c", 2, 2)])
    launched("train", *at("d", 2, 2))  # as accelerate starts it, from the file that is shipped
    assert len(list((tmp_path / "d" / "checkpoints" / "step-00000002").glob("shard-*"))) == 2
    for name in "abcd":
        run(*at(name, 3, 4), "--resume")
        expected, found = weights(tmp_path / "whole", 3), weights(tmp_path / name, 3)
        for tensor in expected:
            torch.testing.assert_close(found[tensor], expected[tensor], atol=2e-5, rtol=1e-3)
        assert [row["step"] for row in rows(tmp_path / name)] == [1, 2, 3]
    assert "was started with 4 pairs a step" in (said := fails(*at("a", 4, 2), "--resume")) and "make 2" in said
    next((tmp_path / "a" / "checkpoints" / "step-00000002").glob("shard-00002*")).unlink()
    (tmp_path / "a" / "checkpoints" / "step-00000003" / "state.json").unlink()
    run(*at("a", 3, 4), "--resume")
    assert sorted(each.name for each in (tmp_path / "a" / "checkpoints").glob("broken-*")) == [
        "broken-step-00000002", "broken-step-00000003"]
