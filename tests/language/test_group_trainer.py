"""What the opened trainer changes of TRL's GRPO, and what it leaves as it is."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.tiny.languages import tiny_language_model, tiny_tokenizer
from visalign.errors import UserError
from visalign.language.convert import trl_arguments
from visalign.language.group_trainer import GroupTrainer, _grpo, opening_sentence, whole_rows
from visalign.language.online import build_group_trainer
from visalign.language.run import check_language, train_language
from visalign.objectives.advantages import AdvantageRule
from visalign.parallel.sharing import ALONE
from visalign.rewards.text.rules import Brevity, Repetition
from visalign.storage.language_models import LanguageModel
from visalign.storage.run_folder import RunFolder, read_metrics


def built(config) -> GroupTrainer:
    model = LanguageModel(tiny_language_model(), tiny_tokenizer(), "tiny")
    config = check_language(config).config
    return build_group_trainer(config, model, RunFolder(config.output.folder, config), ALONE)[0].loop


def rows_of(config, kind="train"):
    return [row for row in read_metrics(Path(config.output.folder)) if row["kind"] == kind]


def gives(monkeypatch, reward, *values) -> None:
    """The reward's values, in order, again and again."""
    found = []
    monkeypatch.setattr(reward, "measure", lambda self, sample: (found.append(sample), values[
        (len(found) - 1) % len(values)])[1])


def batches(monkeypatch) -> list[dict]:
    """What TRL's loss is given in each pass, and the loss."""
    seen, real = [], GroupTrainer._compute_loss

    def watched(self, model, inputs):
        loss = real(self, model, inputs)
        seen.append(inputs | {"loss": loss.item()})
        return loss

    monkeypatch.setattr(GroupTrainer, "_compute_loss", watched)
    return seen


def test_with_the_groups_mean_as_baseline_everything_is_trls_own(group_recipe, tmp_path):
    """TRL's scale divides by the std of n - 1, so it is left out: then losses and weights are the same."""
    from datasets import Dataset

    config = group_recipe("advantage={baseline: mean, scale: none}",
                          "objective={name: grpo, length: tokens, beta: 0.1}")
    ours = built(config)
    ours.train()
    model = tiny_language_model()
    theirs = _grpo.GRPOTrainer(
        model=model, args=trl_arguments(config, "GRPOConfig", str(tmp_path / "theirs")),
        processing_class=tiny_tokenizer(),
        reward_funcs=[lambda completions, **given: [-len(each[0]["content"].split()) / 10 for each in completions]],
        train_dataset=Dataset.from_list([{"prompt": talk} for talk in ours.train_dataset["prompt"]]),
        peft_config=ours.model.peft_config["default"])
    theirs.train()
    losses = [[row["loss"] for row in loop.state.log_history if "loss" in row] for loop in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and losses[0][-1] != 0
    own = dict(ours.model.named_parameters())
    for name, value in theirs.model.named_parameters():
        torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-5)


def test_the_rules_advantages_are_those_of_trls_loss(group_recipe, monkeypatch):
    """Rewards (0, 1, 2, 9): median 1, MAD 1: -1, 0, 1, 8 over 1.0001, the last clipped at 5; 0 is the pivot. With every
    ratio 1, Dr. GRPO's loss of a pass of B answers is -sum A |y| / (B max_tokens)."""
    gives(monkeypatch, Brevity, 0.0, 1.0, 2.0, 9.0, 3.0)
    seen = batches(monkeypatch)
    train_language(group_recipe("advantage={baseline: median, scale: mad}", "rollout.group_size=5",
                                "train.batch_size=5", "train.steps=1", "objective={name: grpo}",
                                "eval.reward=repetition"))
    given = torch.cat([batch["advantages"] for batch in seen]).tolist()
    # (0, 1, 2, 3, 9): median 2, MAD of (2, 1, 0, 1, 7) 1
    assert sorted(given) == pytest.approx(sorted([-1.9998, -0.9999, 0, 0.9999, 5] * 2), abs=1e-4)
    for batch in seen:
        lengths = batch["completion_mask"].sum(1)
        wanted = -(batch["advantages"] * lengths).sum().item() / (5 * 8) / 2
        assert batch["loss"] == pytest.approx(wanted, abs=1e-6)


def test_an_answer_without_a_score_is_left_out_and_the_others_are_compared(group_recipe, monkeypatch):
    """Leave one out of (0, 2, 4) beside a NaN: 0 - 3, 2 - 2, 4 - 1; one reward of two that is NaN counts as none."""
    gives(monkeypatch, Brevity, 0.0, math.nan, 2.0, 4.0)
    seen = batches(monkeypatch)
    config = group_recipe("train.steps=1", "eval.reward=repetition", "reward.max_failures=1.0")
    train_language(config)
    assert sorted(torch.cat([batch["advantages"] for batch in seen]).tolist()) == [-3, -3, 0, 0, 0, 0, 3, 3]
    assert rows_of(config)[0]["unscored"] == 2 and rows_of(config)[0]["reward"] == pytest.approx(2)
    seen.clear()
    gives(monkeypatch, Brevity, 0.0, 1.0, 2.0, 4.0)
    gives(monkeypatch, Repetition, 9.0, math.nan, 9.0, 9.0)
    config = group_recipe("train.steps=1", "eval.reward=contains:a", "reward.max_failures=1.0",
                          "reward.models=[brevity, {reward: repetition, weight: 0.0}]", out="two")
    train_language(config)
    assert sorted(torch.cat([batch["advantages"] for batch in seen]).tolist()) == [-3, -3, 0, 0, 0, 0, 3, 3]
    assert rows_of(config)[0]["reward"] == pytest.approx(2)


def test_infinity_is_no_score_and_too_many_end_the_run_with_the_reason(group_recipe, monkeypatch):
    gives(monkeypatch, Brevity, 0.0, math.inf, 2.0, 4.0)
    seen = batches(monkeypatch)
    train_language(group_recipe("train.steps=1", "eval.reward=repetition", "reward.max_failures=0.3"))
    assert sorted(torch.cat([batch["advantages"] for batch in seen]).tolist()) == [-3, -3, 0, 0, 0, 0, 3, 3]
    with pytest.raises(UserError, match=r"25% of the batch's samples have no score.*\(brevity: .* not a finite number"):
        train_language(group_recipe("eval.reward=repetition", "reward.max_failures=0.2", out="strict"))


def test_a_reward_that_raises_is_asked_again_and_one_that_hangs_ends_the_run(group_recipe, monkeypatch):
    import time

    asked = []

    def failing(self, sample):
        asked.append(sample)
        if len(asked) == 1:
            raise OSError("the judge is busy")
        return float(len(asked) % 3)

    monkeypatch.setattr(Brevity, "measure", failing)
    config = group_recipe("train.steps=1", "eval.reward=repetition", "reward.retry_wait=0.01")
    train_language(config)
    assert rows_of(config)[0]["unscored"] == 0
    monkeypatch.setattr(Brevity, "measure", lambda self, sample: time.sleep(0.5))
    with pytest.raises(UserError, match="reward brevity: no scores for a batch within reward.timeout 0.2 s"):
        train_language(group_recipe("eval.reward=repetition", "reward.timeout=0.2", out="late"))


def test_answers_of_equal_worth_end_the_run(group_recipe, monkeypatch):
    gives(monkeypatch, Brevity, 1.0)
    with pytest.raises(UserError, match="rollout.patience 2: in that many batches all answers .* worth the same"):
        train_language(group_recipe("rollout.patience=2", "eval.reward=repetition"))


def test_likelihood_is_the_mean_log_probability_of_a_token_at_the_temperature(group_recipe):
    loop = built(group_recipe("rollout.temperature=0.7", "advantage={unlikeliness: 0.25}"))
    prompt, answer = torch.tensor([[5, 6, 7], [0, 8, 9]]), torch.tensor([[11, 12, 13, 2], [14, 2, 0, 0]])
    batch = {"prompt_ids": prompt, "completion_ids": answer, "prompt_mask": torch.tensor([[1, 1, 1], [0, 1, 1]]),
             "completion_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])}
    tokens, mask = whole_rows(batch)
    logits = tiny_language_model()(tokens, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    logs = (logits[:, 2:-1] / 0.7).log_softmax(-1).gather(-1, answer[..., None])[..., 0]
    wanted = [logs[0].mean().item(), logs[1, :2].mean().item()]
    assert loop.likelihood_of(batch).tolist() == pytest.approx(wanted, abs=1e-4)


def test_every_ratio_is_one_at_the_first_update_of_a_batch_and_not_at_the_second(group_recipe):
    config = group_recipe("objective={name: grpo, updates: 2}")
    train_language(config)
    rows = rows_of(config)
    assert [row["ratio"] for row in rows[::2]] == pytest.approx([1, 1], abs=1e-5)
    assert all(row["approx_kl"] == pytest.approx(0, abs=1e-6) for row in rows[::2])
    assert all(row["approx_kl"] > 1e-4 for row in rows[1::2]) and "reward" not in rows[1]


def test_a_full_fine_tunes_reference_is_the_start_wherever_its_weights_came_from(group_recipe, monkeypatch):
    """The folder that the model's configuration names holds other weights."""
    config = group_recipe("model.tuning=full", "model.lora={}", "optim.lr=1e-3", "train.steps=2")
    other = tiny_language_model(seed=7)
    other.config._name_or_path = config.model.source
    monkeypatch.setattr("visalign.language.run.load_language_model",
                        lambda *given, **more: LanguageModel(other, tiny_tokenizer(), "other weights"))
    train_language(config)
    kl = [row["kl"] for row in rows_of(config)]
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[1] > 1e-6
    assert not (Path(config.output.folder) / "start").exists()


def test_groups_are_compared_as_wholes(group_recipe, monkeypatch):
    """Levels (1, 2, 1, 1) and, of the second prompt, one unknown: that group is left out, and counts 0 in the mean."""
    gives(monkeypatch, Brevity, 1.0, 0.0, 1.0, 1.0, 1.0, math.nan, 0.0, 1.0)
    seen = batches(monkeypatch)
    config = group_recipe("objective={name: pairs_in_group, kl: 0.0}", "train.steps=1", "eval.reward=repetition",
                          "reward.levels={brevity: 0.5}", "train.batch_size=8")
    train_language(config)
    assert seen[0]["level"].tolist() == [1, 2, 1, 1, 1, 0, 2, 1]
    assert seen[0]["kept"].tolist() == [True] * 4 + [False] * 4
    assert seen[0]["loss"] == pytest.approx(math.log(2) / 2, abs=1e-6)  # policy = reference
    with pytest.raises(UserError, match="train.batch_size 2 must be a multiple of rollout.group_size 4"):
        train_language(group_recipe("objective={name: pairs_in_group}", "train.batch_size=2", out="parts"))


def test_siblings_continue_one_beginning_and_learn_what_follows(group_recipe, monkeypatch):
    """The beginning stands in the prompts of the loss; rewards and the table see it as part of the answer."""
    seen = batches(monkeypatch)
    config = group_recipe("rollout.branch={prefix: 3}", "train.steps=1", "train.batch_size=8")
    train_language(config)
    rows = [prompt[mask.bool()].tolist() for prompt, mask in zip(seen[0]["prompt_ids"], seen[0]["prompt_mask"],
                                                                 strict=True)]
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row[-3:])
    assert sorted(map(len, groups.values())) == [4, 4]
    tokenizer = tiny_tokenizer()
    own = [json.loads(line) for line in (Path(config.output.folder) / "rollouts" / "answers.jsonl").read_text(
        ).splitlines()]
    begun = {tokenizer.decode(tail[0]).strip() for tail in groups.values()}
    plain = [text for text in begun if "\ufffd" not in text]
    assert all(sum(row["answer"].startswith(text) for row in own) >= 4 for text in plain)
    assert len({row["answer"] for row in own}) == 8 and seen[0]["completion_ids"].size(1) == 8


def test_a_beginning_is_the_opening_sentence():
    tokenizer = tiny_tokenizer()
    text = tokenizer("The rain. The salt! ")["input_ids"]
    assert tokenizer.decode(opening_sentence(tokenizer, text)) == "The rain."
    assert opening_sentence(tokenizer, tokenizer("no end")["input_ids"]) == []


def test_siblings_advantages_vary_with_their_own_step_alone():
    """Rewards are sums of 8 independent steps; siblings that share the first 7 differ in one: 1/8 of the variance."""
    rng, groups = torch.Generator().manual_seed(0), torch.arange(6000) // 6
    steps = torch.randn(6000, 8, generator=rng)
    shared = steps.clone()
    shared[:, :7] = steps[::6, :7].repeat_interleave(6, 0)
    rule = AdvantageRule(baseline="leave_one_out", scale="none", clip=1e6)
    spread = [rule(each.sum(1, keepdim=True), torch.ones(1), groups).advantages.var().item()
              for each in (steps, shared)]
    assert spread[1] / spread[0] == pytest.approx(1 / 8, rel=0.1)
