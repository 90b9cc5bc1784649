"""Two processes on a CPU: what they learn is what one does with batches twice as large, and both hold the same."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.programs import together
from visalign.errors import UserError
from visalign.language.run import train_language
from visalign.rewards.text.rules import Brevity
from visalign.storage.run_folder import read_metrics

CODE = """
import os, sys
from accelerate.state import AcceleratorState
from visalign.cli import main
from visalign.language import run

real = run.leave_language

def leave(trainer, *rest):
    print("HELD", sum(p.detach().double().square().sum().item() for _, p in trainer.state.parameters).hex())
    real(trainer, *rest)

run.leave_language = leave
for words in sys.argv[1:]:
    main(["--debug", *words.split()], standalone_mode=False)
    AcceleratorState._reset_state(True)
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
"""


def rows_of(folder, kind="train"):
    return [row for row in read_metrics(Path(folder)) if row["kind"] == kind]


def written(config, file):
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return file


def test_pairs_and_own_answers_are_learnt_from_by_two_processes(recipe, group_recipe, tmp_path):
    alone = recipe("train.steps=3", out="alone")
    pairs = written(recipe("train.steps=3", "train.batch_size=2", out="pairs"), tmp_path / "pairs.yaml")
    more = ("train.batch_size=2", "train.steps=2", "advantage={unlikeliness: 0.25}", "reward.models=[regex:a]")
    online = written(group_recipe(*more, out="online"), tmp_path / "own.yaml")
    said = together(CODE, f"lm train {pairs}", f"lm train {online}", folder=tmp_path)
    held = [line.split()[1:] for line in said.splitlines() if line.startswith("HELD ")]
    assert len(held) == 4 and held[0] == held[2] and held[1] == held[3]  # both processes, either run
    train_language(alone)
    for name in ("pairs", "online"):
        assert rows_of(tmp_path / name, "start")[0]["processes"] == 2
    for one, two in zip(rows_of(tmp_path / "alone"), rows_of(tmp_path / "pairs"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)
    assert rows_of(tmp_path / "alone", "held_out")[0]["values"] == rows_of(tmp_path / "pairs", "held_out")[0]["values"]
    first, second = (load_file(tmp_path / name / "export" / "adapter_model.safetensors") for name in ("alone", "pairs"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-5, rtol=1e-3)
    own = [json.loads(line) for line in (tmp_path / "online" / "rollouts" / "answers.jsonl").read_text().splitlines()]
    assert len(own) == 8 and len({row["answer"] for row in own}) == 8  # each process draws others
    assert all(row["kl"] < 1 and row["unscored"] == 0 for row in rows_of(tmp_path / "online"))


@pytest.mark.parametrize(("variables", "words"), [
    ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "accelerate: FSDP2 of language models needs GPUs, since "),
    ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "accelerate: fsdp_version 1 is not supported"),
    ({"ACCELERATE_USE_DEEPSPEED": "true"}, "accelerate: DeepSpeed is not supported for language models"),
])
def test_what_accelerate_would_silently_leave_out_is_refused(recipe, monkeypatch, variables, words):
    for name, value in (variables | {"WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        train_language(recipe())


@pytest.mark.parametrize(("overrides", "needs_group", "words"), [
    (("rollout.branch={}",), False, "rollout.prompts_per_step 1 must be a multiple of the 2 processes with rollout.br"),
    ((), True, "must be a multiple of the 2 processes: reward brevity compares the answers of a group"),
    (("train.batch_size=4",), False, "= 4 answers are not a multiple of train.batch_size 4 x 2 processes = 8"),
])
def test_groups_that_processes_would_tear_apart_are_refused(group_recipe, monkeypatch, overrides, needs_group, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(Brevity, "needs_group", needs_group)
    with pytest.raises(UserError, match=words):
        train_language(group_recipe("rollout.prompts_per_step=1", "train.batch_size=2", *overrides))


def test_two_processes_grow_the_trees_that_one_grows(recipe, tmp_path):
    feedback = ("{prompts: topics:train, max_prompts: 3, reward: brevity, max_tokens: 8, batch_size: 4, "
                "success: {samples: 2, least: 0}, tree: {simulations: 2, width: 3, depth: 2, step: 3}}")
    more = ("data.path=null", f"data.feedback={feedback}", "train.steps=1")
    alone = recipe(*more, out="alone")
    train_language(alone)
    shared = written(recipe(*more, "train.batch_size=2", out="shared"), tmp_path / "shared.yaml")
    together(CODE, f"lm train {shared}", folder=tmp_path)
    for name in ("pairs.jsonl", "success.json"):
        assert (tmp_path / "alone" / name).read_text() == (tmp_path / "shared" / name).read_text()
