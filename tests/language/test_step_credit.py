"""Credit for the steps of answers: where steps end, what they are worth, and whole runs that learn from it."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from tests.programs import together
from tests.tiny.languages import tiny_tokenizer
from visalign.cli import main
from visalign.config.language import LanguageRewardSettings
from visalign.config.language_rollout import StepCreditSettings
from visalign.errors import UserError
from visalign.jobs.language_dry_run import describe_language_run
from visalign.language.group_trainer import GroupTrainer
from visalign.language.run import train_language
from visalign.language.scored_answers import AnswerScorer
from visalign.language.step_credit import DrawnAnswers, StepCredit, cuts_of, step_ends, step_of_tokens
from visalign.language.trainer import StepNotes
from visalign.parallel.sharing import ALONE
from visalign.rewards.text.rules import Brevity, Contains
from visalign.storage.run_folder import read_metrics
from visalign.trainers.online.scoring import RewardSet

END = 2
"""<|im_end|> of the tiny tokenizer."""
SENTENCES = StepCreditSettings(of="contains", threshold=1.0, ends="sentence", tries=2, discount=0.5)


def parts_of(text: str, **settings) -> list[str]:
    cuts = cuts_of(text, StepCreditSettings(of="contains", **settings))
    return [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize(("text", "parts"), [
    ("It rains. Is it 3.5? Yes!", ["It rains.", " Is it 3.5?", " Yes!"]),
    ('He said "no." Then he left.  ', ['He said "no."', " Then he left.  "]),
    ("One\n\nTwo.\nThree", ["One", "\n\nTwo.", "\nThree"]),
    ("雨が降る。塩だ！", ["雨が降る。", "塩だ！"]),
    ("no end", ["no end"]), ("  ", ["  "]), ("", [""]), ("... Yes", ["...", " Yes"]),
])
def test_sentences_and_lines_are_steps(text, parts):
    assert parts_of(text, ends="sentence") == parts


@pytest.mark.parametrize(("text", "parts"), [
    ("It rains, so I wait. Therefore: no.", ["It rains,", " so I", " wait.", " Therefore: no."]),
    ("So it is also soft, but wait, then no", ["So it is also soft,", " but wait, then no"]),
    ("(so) and", ["(", "so) and"]), ("Wait", ["Wait"]), ("A SO", ["A", " SO"]),
])
def test_steps_end_before_connectives(text, parts):
    assert parts_of(text) == parts


def test_more_steps_than_asked_are_joined_evenly():
    text = "".join(f" {i}." for i in range(7))
    assert parts_of(text, ends="sentence", max_steps=3) == [" 0. 1.", " 2. 3.", " 4. 5. 6."]
    assert parts_of(text, ends="sentence", max_steps=2) == [" 0. 1. 2.", " 3. 4. 5. 6."]
    assert len(parts_of(text, ends="sentence", max_steps=7)) == 7


@pytest.mark.parametrize("text", [
    "It rains. 🌧️🌧️. Salt 塩。もう一つ。 Straße? 👩‍👩‍👧! end", "🌧.🌧. 🌧! 🌧", "é. è.\nê", "a. b", "🌧",
])
def test_tokens_of_a_step_are_its_text_whatever_its_bytes(text):
    tokenizer = tiny_tokenizer()
    tokens = [*tokenizer(text)["input_ids"], END]
    ends = step_ends(tokenizer, tokens, SENTENCES)
    parts = [tokenizer.decode(tokens[start:stop], skip_special_tokens=True)
             for start, stop in zip([0, *ends], ends, strict=False)]
    assert parts == parts_of(text, ends="sentence") and ends[-1] == len(tokens)
    step = step_of_tokens([ends], len(tokens) + 2)[0].tolist()
    assert step[-2:] == [-1, -1] and step[-3] == len(ends) - 1  # the end of the turn is of the last step
    assert step[:-2] == sorted(step[:-2]) and len({*step[:-2]}) == len(ends)


def test_half_a_character_and_a_token_across_a_cut_are_of_the_step_before():
    class Pieces:
        """Tokens as in a tokenizer with a piece for a full stop and a line break together."""

        pieces = {1: b"Yes", 2: b".\nN", 3: b"o", 4: b"\xf0\x9f", 5: b"\x8c\xa7", 6: b".", 7: b" A"}

        def decode(self, tokens, skip_special_tokens=True):
            return b"".join(self.pieces[token] for token in tokens).decode(errors="replace")

    assert step_ends(Pieces(), [1, 2, 3], SENTENCES) == [2, 3]
    assert step_ends(Pieces(), [4, 5, 6, 7], SENTENCES) == [3, 4]
    assert step_ends(Pieces(), [1, 6, 4], SENTENCES) == [3]  # ends within a character


def test_single_bytes_that_are_spoilt_by_half_a_character_after_them_are_still_found():
    """As in tokenizers that fall back on bytes: a run of bytes is text when all of it is."""
    class Bytes:
        def decode(self, tokens, skip_special_tokens=True):
            try:
                return bytes(tokens).decode()
            except UnicodeDecodeError:
                return "\ufffd" * len(tokens)

    for text, first in (("雨。" + "塩" * 20, "雨。"), ("あ。い。うえお", "あ。")):
        assert step_ends(Bytes(), list(text.encode()), SENTENCES)[0] == len(first.encode())


class Drawing:
    """Continuations in turn, and the rows of tokens after which they were asked for."""

    def __init__(self, *texts: str):
        self.texts, self.rows, self.count = texts, [], 0

    def __call__(self, rows, most):
        tokenizer, found = tiny_tokenizer(), []
        for row in rows:
            self.rows.append(tokenizer.decode(row))
            found.append([*tokenizer(self.texts[self.count % len(self.texts)])["input_ids"], END])
            self.count += 1
        return found


def credited(answers, drawing, settings=SENTENCES, group_size=2, reward="contains:salt", ended=True, begun="", **more):
    """Credit of answers, all to prompts of two words, and the notes."""
    tokenizer, notes = tiny_tokenizer(), StepNotes()
    rewards = RewardSet(LanguageRewardSettings(models=[{"reward": reward, "weight": 0.0}, "brevity"], **more), "cpu",
                        "text")
    credit = StepCredit(settings, AnswerScorer(rewards.only(settings.of), [END], group_size, ALONE, "cpu", 2),
                        tokenizer, notes)
    tokens = [[*tokenizer(answer)["input_ids"], *[END] * ended] for answer in answers]
    prompts = [f"prompt {i // group_size}" for i in range(len(answers))]
    drawn = DrawnAnswers(prompts, [tokenizer(prompt + ":")["input_ids"] for prompt in prompts],
                         [tokenizer(begun)["input_ids"] for _ in answers], tokens)
    found = credit.of(drawn, drawing, max(map(len, tokens)) + 1)
    by_step = [[*dict.fromkeys(zip(step_of_tokens([step_ends(tokenizer, row, settings)], len(row))[0].tolist(),
                                   given[:len(row)].tolist(), strict=True))] for row, given in zip(tokens, found.tokens,
                                                                                                   strict=True)]
    assert not found.tokens[:, -1].any()
    assert all([number for number, _ in row] == list(range(len(row))) for row in by_step)  # one number a step
    return [[value for _, value in row] for row in by_step], found.steps, notes


def test_only_the_step_that_writes_the_word_is_worth_something():
    """No try writes it: S of the first answer 0, 0, 1, 1, so d 0, 1, 0 and, discounted by 0.5, G .5, 1, 0; of the
    second S 0, 0, 0. The mean of the five G is 0.3."""
    values, steps, notes = credited(["Rain. It is salt. Yes.", "No. Not at all."], Drawing(" no"))
    assert values[0] == pytest.approx([0.2, 0.7, -0.3]) and values[1] == pytest.approx([-0.3, -0.3])
    assert [(step["text"], step["success"], step["change"]) for step in steps[0]] == [
        ("Rain.", 0, 0), (" It is salt.", 1, 1), (" Yes.", 1, 0)]
    whole = credited(["Rain. It is salt. Yes.", "No. Not at all."], Drawing(" no"),
                     SENTENCES.model_copy(update={"discount": 0.0, "weight": 2.0}))[0]
    assert whole[0] == pytest.approx([-0.4, 1.6, -0.4]) and whole[1] == pytest.approx([-0.4, -0.4])  # d less 0.2, twice
    figures = notes.reduced()
    assert figures["step_credit/steps"] == 2.5 and figures["step_credit/raised"] == pytest.approx(0.2)
    assert figures["step_credit/change"] == pytest.approx(0.2) and figures["step_credit/after"] == 0.5


def test_success_is_the_share_of_tries_and_changes_telescope():
    """Two tries at each beginning, of which the first says the word: S_0 1/2, after "No." 1/2, after "salt" 1 and 1
    whatever follows; the answer that did not end is tried, too: 1/2."""
    values, steps, notes = credited(["No. A salt. Yes", "No. Not"], Drawing(" salt", " no"), ended=False)
    assert [[step["success"] for step in row] for row in steps] == [[0.5, 1, 1], [0.5, 0.5]]
    # d 0, .5, 0 and 0, 0; G .25, .5, 0 and 0, 0 with mean .15
    assert values[0] == pytest.approx([0.1, 0.35, -0.15]) and values[1] == pytest.approx([-0.15, -0.15])
    assert sum(step["change"] for step in steps[0]) == 1 - 0.5
    figures = notes.reduced()
    assert figures["step_credit/telescoping_error"] == 0 and figures["step_credit/before"] == 0.5


def test_without_a_threshold_success_is_the_mean_reward():
    """Brevity of the tries is minus a tenth of their words: S_0 -(1 + 2)/20; after "Yes." -(2 + 3)/20; the answer has
    two words and ended: -.2."""
    settings = SENTENCES.model_copy(update={"of": "brevity", "threshold": None, "discount": 1.0})
    values, steps, _ = credited(["Yes. No."], Drawing(" a", " a b"), settings, group_size=1)
    assert [step["success"] for step in steps[0]] == pytest.approx([-0.25, -0.2])
    assert values[0] == pytest.approx([-0.05, 0.05])  # G -.05 and .05, which are 0 in the mean


def test_equal_beginnings_are_tried_once_and_finished_answers_never():
    drawing = Drawing(" no")
    credited(["Yes. A.", "Yes. B.", "Yes. C.", "Yes. D."], drawing,
             SENTENCES.model_copy(update={"forced": " It is", "tries": 3}))
    assert drawing.rows == ["prompt 0: It is"] * 3 + ["prompt 0:Yes. It is"] * 3 + ["prompt 1: It is"] * 3 + [
        "prompt 1:Yes. It is"] * 3
    unended = Drawing(" no")
    credited(["Yes. A.", "Yes. B."], unended, ended=False, begun="Well, ")
    assert unended.rows == ["prompt 0:Well, "] * 2 + ["prompt 0:Well, Yes."] * 2 + ["prompt 0:Well, Yes. A."] * 2 + [
        "prompt 0:Well, Yes. B."] * 2


def test_a_beginning_drawn_before_is_part_of_what_is_scored():
    values, steps, _ = credited(["Yes. No.", "Yes. A."], Drawing(" no"), begun="The salt: ")
    assert [[step["success"] for step in row] for row in steps] == [[1, 1], [1, 1]] and not any(map(any, values))


def test_an_answer_of_which_some_success_is_unknown_has_no_credit(monkeypatch):
    """Whatever holds "B" has no score: the second answer is left out, and the mean is that of the first: .75."""
    real = Contains.measure
    monkeypatch.setattr(Contains, "measure", lambda self, sample: (
        math.nan if "B" in sample.answer else real(self, sample)))
    given = ["It. Is salt.", "It. B. Salt."], Drawing(" no")
    values, steps, notes = credited(*given, max_failures=0.9, retries=0)
    assert values[0] == pytest.approx([-0.25, 0.25]) and values[1] == [0, 0, 0] and steps[1] == []
    assert notes.reduced()["step_credit/unknown"] == 0.5
    with pytest.raises(UserError, match="of the batch's samples have no score"):
        credited(*given, max_failures=0.1, retries=0)


def test_one_reward_of_several_is_asked_alone_with_its_own_sign_and_weight():
    rewards = RewardSet(LanguageRewardSettings(models=[{"reward": "repetition", "weight": 0.0}, "brevity"]), "cpu",
                        "text")
    alone = rewards.only("repetition")
    assert alone.names == ("repetition",) and alone.weights.tolist() == [1.0] and len(alone._loaded) == 1
    assert alone.terms[0].reward is rewards.terms[0].reward and rewards.names == ("repetition", "brevity")


WORDS = "[rain, salt, honey, the, a, of, is, and, to, me, long, short, yes, no]"
CREDIT = f"rollout.step_credit={{of: brevity, tries: 2, max_tokens: 4, connectives: {WORDS}, discount: 0.5}}"


def rows_of(config, kind="train"):
    return [row for row in read_metrics(Path(config.output.folder)) if row["kind"] == kind]


def weights(folder):
    return load_file(Path(folder) / "export" / "adapter_model.safetensors")


def same(one, two) -> bool:
    first, second = weights(one), weights(two)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_is_that_of_each_tokens_own_advantage(group_recipe, monkeypatch):
    """With every ratio 1, Dr. GRPO's loss of a pass is -sum A_t over its tokens / (B max_tokens); outcomes that are all
    alike leave the credit alone."""
    seen, real = [], GroupTrainer._compute_loss

    def watched(self, model, inputs):
        loss = real(self, model, inputs)
        seen.append(inputs | {"loss": loss.item()})
        return loss

    monkeypatch.setattr(GroupTrainer, "_compute_loss", watched)
    config = group_recipe(CREDIT.replace("brevity", "has"), "rollout.max_tokens=24", "train.steps=1",
                          "reward.models=[regex:.*, {reward: {kind: regex, pattern: a, name: has}, weight: 0.0}]",
                          "objective={name: grpo}",
                          "eval.reward=repetition", "rollout.patience=1")
    train_language(config)
    for batch in seen:
        assert batch["advantages"].shape == batch["completion_ids"].shape
        wanted = -(batch["advantages"] * batch["completion_mask"]).sum().item() / (4 * 24) / 2
        assert batch["loss"] == pytest.approx(wanted, abs=1e-6)
    row = rows_of(config)[0]
    assert row["zero_std_ratio"] == 1 and row["trained_answers"] > 0 and row["step_credit/steps"] > 1
    assert row["step_credit/telescoping_error"] == pytest.approx(0, abs=1e-12) and row["step_credit/change"] > 0
    assert 0 < row["step_credit/raised"] < 1 and row["step_credit/unknown"] == 0
    most = 2 * (2 + 8 * 8)
    assert 2 * 2 <= row["step_credit/tries"] <= most
    own = [json.loads(line) for line in (Path(config.output.folder) / "rollouts" / "answers.jsonl").read_text(
        ).splitlines()]
    assert all("".join(step["text"] for step in each["steps"]).strip() == each["answer"] for each in own)
    assert f"{most}" in (Path(config.output.folder) / "report.html").read_text()


def test_credit_comes_on_top_of_the_advantage_of_the_whole_answer(group_recipe, monkeypatch):
    """Of an answer without a score nothing is learnt; leave one out of (0, 2, 4): -3, 0, 3."""
    real, credits = GroupTrainer.with_steps, []

    def watched(self, steps, found, mine, width):
        result = real(self, steps, found, mine, width)
        credits.append((found.advantages, result[1].tokens))
        return result

    given = iter([0.0, math.nan, 2.0, 4.0] * 2)
    monkeypatch.setattr(Brevity, "measure", lambda self, sample: next(given, -len(sample.answer) / 10))
    monkeypatch.setattr(GroupTrainer, "with_steps", watched)
    batches, train = [], GroupTrainer._generate_and_score_completions
    monkeypatch.setattr(GroupTrainer, "_generate_and_score_completions",
                        lambda self, inputs: (batches.append(train(self, inputs)), batches[-1])[1])
    train_language(group_recipe(CREDIT, "train.steps=1", "eval.reward=repetition", "reward.max_failures=0.9",
                                "rollout.max_tokens=24"))
    (outcome, tokens), advantages = credits[0], batches[0]["advantages"]
    assert outcome.nan_to_num(9.0).tolist() == [-3, 9, 0, 3] * 2
    assert not advantages[1].any() and not advantages[5].any() and tokens[[0, 2, 3, 4, 6, 7]].any()
    torch.testing.assert_close(advantages, outcome.nan_to_num(0.0).float()[:, None] + tokens)


def test_a_beginning_that_a_group_shares_is_tried_from_once(group_recipe, monkeypatch):
    """Two groups, so two beginnings of three tokens before which nothing is tried; each stands once in its rows."""
    seen, real = [], StepCredit.of
    monkeypatch.setattr(StepCredit, "of", lambda self, drawn, draw, width: real(
        self, drawn, lambda rows, most: (seen.append((drawn, rows)), draw(rows, most))[1], width))
    train_language(group_recipe(CREDIT, "train.steps=1", "rollout.branch={prefix: 3}"))
    drawn, rows = seen[0]
    starts = [prompt + begun for prompt, begun in zip(drawn.prompts, drawn.begun, strict=True)]
    assert all(len(begun) == 3 for begun in drawn.begun) and len(set(map(tuple, starts))) == 2
    assert all(prompt[-3:] == tiny_tokenizer()("<|im_start|>assistant\n")["input_ids"][-3:] for prompt in drawn.prompts)
    assert rows[:2] == [starts[0]] * 2 and sum(row in starts for row in rows) == 4


@pytest.mark.parametrize("more", [(), ("objective={name: grpo, updates: 2}", "rollout.branch={prefix: 2}")])
def test_a_run_that_is_continued_ends_with_the_same_bits(group_recipe, more):
    whole, first, rest = (group_recipe(f"train.steps={steps}", CREDIT, "rollout.max_tokens=16", *more, out=out)
                          for steps, out in ((4, "whole"), (2, "parts"), (4, "parts")))
    train_language(whole)
    train_language(first)
    train_language(rest, resume=True)
    assert same(whole.output.folder, rest.output.folder)
    names = ("reward", "step_credit/tries", "step_credit/change", "loss")
    assert [[row.get(name) for name in names] for row in rows_of(rest)] == [
        [row.get(name) for name in names] for row in rows_of(whole)]
    without = group_recipe("train.steps=4", "rollout.max_tokens=16", *more, out="without")
    train_language(without)
    assert not same(whole.output.folder, without.output.folder)


def test_the_recipe_trains_from_the_command_line_and_continues(tiny_lm, tmp_path):
    """Sentences are rare in noise, so steps end at words here."""
    def visalign(steps, folder, *more):
        done = CliRunner().invoke(main, [
            "--debug", "lm", "train", "language/vsrm", f"model.source={tiny_lm}", "model.precision=fp32",
            "rollout.max_tokens=16",
            f"train.steps={steps}", "rollout.step_credit.ends=connective", f"rollout.step_credit.connectives={WORDS}",
            "rollout.step_credit.max_tokens=4", "eval.max_prompts=2", "eval.samples_per_prompt=2", "eval.max_tokens=8",
            "optim.schedule=constant", "output.trackers=[]", f"output.folder={tmp_path / folder}", *more],
            catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    cost = "at most 200 a step, of 4 tokens, beside 24 answers of 16: 2 x (4 prompts + 24 answers x 4 parts)"
    assert cost in visalign(2, "dry", "--dry-run")
    visalign(2, "whole")
    visalign(1, "parts")
    visalign(2, "parts", "--resume")
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_two_processes_hold_the_same_after_steps_were_credited(group_recipe, tmp_path):
    config = group_recipe(CREDIT, "train.steps=2", "train.batch_size=2", "rollout.max_tokens=16", out="two")
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    code = ("import sys\nfrom visalign.cli import main\nfrom visalign.language import run\nreal = run.leave_language\n"
            "def leave(trainer, *rest):\n"
            "    print('HELD', sum(p.detach().double().square().sum().item() for _, p in trainer.state.parameters)"
            ".hex())\n"
            "    real(trainer, *rest)\nrun.leave_language = leave\n"
            "main(['--debug', *sys.argv[1].split()], standalone_mode=False)\n")
    said = together(code, f"lm train {file}", folder=tmp_path)
    held = [line for line in said.splitlines() if line.startswith("HELD ")]
    assert len(held) == 2 and held[0] == held[1]
    assert all(row["step_credit/tries"] >= 4 for row in rows_of(config)) and len(rows_of(config)) == 2
    own = [json.loads(line) for line in (tmp_path / "two" / "rollouts" / "answers.jsonl").read_text().splitlines()]
    assert all("".join(step["text"] for step in each["steps"]).strip() == each["answer"] for each in own)


@pytest.mark.parametrize(("overrides", "words"), [
    (("rollout.step_credit={of: brief}",), "rollout.step_credit.of brief: names no reward; the rewards are brevity"),
    (("rollout.step_credit={tries: 2}",), "rollout.step_credit.of"),
    (("rollout.step_credit={of: brevity, max_steps: 1}",), "rollout.step_credit.max_steps is 1"),
    (("rollout.step_credit={of: brevity, weight: 0}",), "rollout.step_credit.weight is 0"),
    (("rollout.step_credit={of: brevity, discount: 1.5}",), "rollout.step_credit.discount is 1.5"),
    (("rollout.step_credit={of: brevity, connectives: []}",), "rollout.step_credit.connectives: name at least one"),
    (("rollout.step_credit={of: brevity, ends: sentence, connectives: [so]}",),
     "rollout.step_credit.connectives: says nothing with rollout.step_credit.ends sentence"),
    (("rollout.step_credit={of: brevity}", "objective={name: pairs_in_group}"),
     "rollout.step_credit: credits tokens, and objective pairs_in_group compares whole answers"),
    (("rollout.step_credit={of: brevity}", "objective={name: grpo, level: sequence, length: answer}"),
     "rollout.step_credit: credits tokens, and objective.level sequence has one ratio"),
    (("rollout.step_credit={of: brevity}", "rollout.vllm=true"),
     "rollout.step_credit: goes with answers that transformers draws, not rollout.vllm"),
    (("rollout.step_credit={of: brevity, forced: 'so<|im_end|>'}",),
     r"rollout.step_credit.forced: holds <\|im_end\|>"),
    (("rollout.step_credit={of: brevity, max_tokens: 30, forced: ' It is'}", "train.max_length=60"),
     "less rollout.max_tokens 8 and what rollout.step_credit may add leaves [0-9]+ tokens"),
])
def test_what_cannot_be_is_said_in_one_sentence(group_recipe, overrides, words):
    with pytest.raises(UserError, match=words):
        train_language(group_recipe(*overrides))


def test_processes_must_hold_whole_groups_and_whole_models(group_recipe, monkeypatch):
    config = group_recipe("rollout.step_credit={of: brevity}", "rollout.prompts_per_step=3", "train.batch_size=2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="rollout.prompts_per_step 3 must be a multiple of the 2 processes with "
                                        "rollout.step_credit"):
        train_language(config)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="rollout.step_credit: processes try as many parts as their answers have"):
        train_language(group_recipe("rollout.step_credit={of: brevity}"))


def test_a_reward_that_compares_a_group_cannot_say_what_succeeds(group_recipe, monkeypatch):
    monkeypatch.setattr(Brevity, "needs_group", True)
    with pytest.raises(UserError, match="rollout.step_credit.of brevity: compares the answers of a group"):
        train_language(group_recipe("rollout.step_credit={of: brevity}"))


def test_a_dry_run_says_what_the_credit_costs(group_recipe):
    assert "at most 264 a step" in describe_language_run(group_recipe("rollout.step_credit={of: brevity}"))  # 4 (2+64)
