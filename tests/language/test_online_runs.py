"""Whole runs on own answers: every option, resuming to the same bits, signals, kills, and what is refused."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.programs import VISALIGN, Program
from visalign.errors import UserError
from visalign.language.run import train_language
from visalign.rewards.text.rules import Brevity
from visalign.storage.run_folder import read_metrics
from visalign.trainers.stopping import Stopped

PAIRS = "objective={name: pairs_in_group}"


def rows_of(config, kind="train"):
    return [row for row in read_metrics(Path(config.output.folder)) if row["kind"] == kind]


def weights(config):
    return load_file(Path(config.output.folder) / "export" / "adapter_model.safetensors")


def same(one, two) -> bool:
    first, second = weights(one), weights(two)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_rewards_its_own_answers_and_an_adapter(group_recipe, capfd):
    config = group_recipe("guard={action: warn, every: 2, max_prompts: 1, samples_per_prompt: 2}",
                          "eval.features=minilm", "eval.every=2", "rollout.batch_size=3")
    result = train_language(config)
    rows, folder = rows_of(config), Path(config.output.folder)
    for name in ("reward", "reward/brevity/mean", "group_std", "zero_std_ratio", "kl", "entropy", "clipped_above",
                 "answer_tokens", "truncated", "ended", "unscored", "grad_norm", "lr"):
        assert all(name in row for row in rows), name
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[-1]["kl"] > 0
    held = rows_of(config, "held_out")
    assert [row["step"] for row in held] == [0, 2, 4]
    assert held[0]["held_out/kl_per_answer"] == pytest.approx(0, abs=1e-6)
    own = [json.loads(line) for line in (folder / "rollouts" / "answers.jsonl").read_text().splitlines()]
    assert len(own) == 8 and own[0]["step"] == 4 and len({row["prompt"] for row in own}) == 2
    assert [row["reward"] for row in own[:4]] == sorted((row["reward"] for row in own[:4]), reverse=True)
    page = (folder / "report.html").read_text()
    assert "Own answers of the last batch" in page and own[0]["prompt"] in page and result.verdict.word
    assert "reward -0." in capfd.readouterr().err  # the progress bar


@pytest.mark.parametrize("overrides", [
    ("advantage={unlikeliness: 0.25}", "reward.models=[regex:a]"),
    ("advantage={gate: contains, gate_threshold: 1.0, gate_share: 0.5}",
     "reward.models=[{reward: {kind: contains, words: a}}, brevity]"),
    ("objective={name: grpo, level: sequence, length: answer, updates: 2, entropy: 0.01, clip_high: 0.3}",),
    ("objective={name: grpo, top_entropy: 0.5, truncated: false}", "model.system=Be brief."),
    (PAIRS, "advantage={}"), ("rollout.branch={prefix: sentence}",),
])
def test_options_run_from_start_to_finish(group_recipe, overrides):
    config = group_recipe("train.steps=2", *overrides)
    train_language(config)
    losses = [row["loss"] for row in rows_of(config)]
    assert len(losses) == 2 and all(map(torch.isfinite, map(torch.tensor, losses)))


@pytest.mark.parametrize("more", [(), ("objective={name: grpo, updates: 2}", "advantage={history: 8}"), (PAIRS,)])
def test_a_run_that_is_continued_ends_with_the_same_bits(group_recipe, more):
    whole, first, rest = (group_recipe(f"train.steps={steps}", *more, out=out)
                          for steps, out in ((4, "whole"), (2, "parts"), (4, "parts")))
    train_language(whole)
    train_language(first)
    train_language(rest, resume=True)
    assert same(whole, rest) and [row["step"] for row in rows_of(rest)] == [1, 2, 3, 4]
    assert [row["reward"] for row in rows_of(rest) if "reward" in row] == [
        row["reward"] for row in rows_of(whole) if "reward" in row]


def test_a_signal_ends_the_run_when_the_batch_is_used_and_it_continues_to_the_same_bits(group_recipe, monkeypatch):
    more = ("train.steps=6", "objective={name: grpo, updates: 2}", "advantage={drop_zero: false}")
    whole, stopped = group_recipe(*more, out="whole"), group_recipe(*more, out="stopped")
    train_language(whole)
    real, seen = Brevity.measure, []

    def signalled(self, sample):
        seen.append(sample)
        if len(seen) == 2 + 8 + 1:  # held-out answers, the first batch, the second
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, sample)

    monkeypatch.setattr(Brevity, "measure", signalled)
    with pytest.raises(Stopped, match="stopped, step 4 is kept"):
        train_language(stopped)
    train_language(stopped, resume=True)
    assert same(whole, stopped)


def test_a_killed_run_continues_to_the_same_bits(group_recipe, tmp_path):
    more = ("train.steps=6", "output.checkpoint_every=1", "output.keep_checkpoints=0")
    whole, killed = group_recipe(*more, out="whole"), group_recipe(*more, out="killed")
    train_language(whole)
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(killed.model_dump(mode="json")))
    program = Program(VISALIGN, "lm", "train", file, output=tmp_path / "said")
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoints" / "checkpoint-3").exists():
        assert time.monotonic() < deadline and not program.ended(), program.text()[-2000:]
        time.sleep(0.005)
    program.kill()
    assert not (tmp_path / "killed" / "report.html").exists()
    train_language(killed, resume=True)
    assert same(whole, killed) and [row["step"] for row in rows_of(killed)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("overrides", "words"), [
    (("rollout.group_size=1",), "rollout.group_size is 1: it must be at least 2"),
    (("train.batch_size=3",), r"rollout.prompts_per_step 2 x rollout.group_size 4 = 8 answers are not a multiple of "
                              r"train.batch_size 3 x 1 processes = 3"),
    (("advantage={baseline: median}",), "rollout.group_size 4: must be odd with advantage.baseline median"),
    (("advantage={rarity: 0.3}",), "advantage.rarity 0.3: tells kinds of images and videos apart, not of answers"),
    (("reward.features=minilm",), "unknown key reward.features"),
    (("rollout.temperature=0",), "rollout.temperature 0: all answers to a prompt would be the same"),
    (("rollout.branch={prefix: 0}",), "rollout.branch.prefix is 0"),
    (("rollout.branch={prefix: 40}", "train.max_length=60"), "leaves 12 tokens for a prompt"),
    (("rollout.branch={}", "rollout.vllm=true"), "rollout.branch: goes with answers that transformers draws"),
    (("rollout.vllm=true",), "rollout.vllm: needs a GPU"),
    (("rollout.prompts_per_step=50",), "rollout.prompts .*: 18 prompts are left to learn from, fewer than "),
    (("train.max_length=20",), "train.max_length 20 less rollout.max_tokens 8 leaves 12 tokens for a prompt: 18 of 18"),
    (("train.gradient_accumulation=2",), "train.gradient_accumulation: follows from rollout.prompts_per_step"),
    (("model.reference=smollm2",), "model.reference: a model that learns from its own answers is compared with itself"),
    (("objective={name: grpo, level: sequence}",), "level sequence goes with length answer, got constant"),
    (("objective={name: grpo, updates: 3}",), "train.steps 4: must be a multiple of objective.updates 3"),
    (("objective={name: grop}",), "objective.name is 'grop'.*did you mean 'grpo'"),
    (("reward.models=[sharpness]",), "reward sharpness: scores images only"),
    (("reward.levels={brevity: 0.0}",), "reward.levels: only objective pairs_in_group reads them, not grpo"),
    (("reward.levels={brief: 0.0}", PAIRS), "reward.levels brief: names no reward"),
    (("advantage={gate: right}",), "advantage.gate right: names no reward; the rewards are brevity"),
    (("advantage={unlikeliness: 0.5}",), "advantage: unlikeliness needs rewards of at least 0"),
    (("train.trl={reward_weights: [1.0]}",), "train.trl.reward_weights: is decided by reward.models"),
    (("train.trl={num_generations: 2}",), "train.trl.num_generations: is decided by settings of this recipe"),
])
def test_what_cannot_be_is_said_in_one_sentence(group_recipe, overrides, words):
    with pytest.raises(UserError, match=words):
        train_language(group_recipe(*overrides))


def test_a_few_prompts_that_are_too_long_are_counted_and_left_out(group_recipe, tmp_path, capsys):
    more = ("train.steps=1", "train.max_length=60", "rollout.holdout=0.0", "eval.prompts=topics:held_out")
    config = group_recipe(*more, "train.max_longer=0.02")
    with (tmp_path / "prompts.txt").open("a") as file:
        file.write("Tell me about " + "rain and salt and honey " * 20 + "\n")
    with pytest.raises(UserError, match="1 of 21 prompts are longer, up to .*, more than the share 0.02"):
        train_language(config)
    train_language(group_recipe(*more, out="left-out"))
    assert "1 of 21 prompts are longer than the 52 tokens that rollout.max_tokens leaves" in capsys.readouterr().err


def test_a_prompt_with_control_tokens_is_refused(group_recipe, tmp_path):
    config = group_recipe()
    (tmp_path / "prompts.txt").write_text("".join(f"Tell me <|im_end|> {i}\n" for i in range(9)))
    with pytest.raises(UserError, match=r"rollout.prompts 'Tell me <\|im_end\|> \d': holds <\|im_end\|>"):
        train_language(config)


def test_a_dry_run_says_what_would_be_answered(group_recipe):
    from visalign.jobs.language_dry_run import describe_language_run

    said = describe_language_run(group_recipe())
    assert "4 of 8 answers, 2 prompts x 4" in said and "prompts           18 to answer" in said
    with pytest.raises(UserError, match="train.max_length 20"):
        describe_language_run(group_recipe("train.max_length=20"))
