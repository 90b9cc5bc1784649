"""Rounds whose pairs are searched: the shipped recipes on a tiny model, resumed, and what is refused before one
loads."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy
from click.testing import CliRunner
from safetensors.torch import load_file

from visalign.cli import main
from visalign.config.language_search import SuccessSettings
from visalign.config.load import load_config
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError
from visalign.evaluators.prompt_metrics import known_mean
from visalign.language.feedback import read_feedback
from visalign.language.rounds import measured_in, round_config, train_rounds, warm_up_config
from visalign.language.run import check_language
from visalign.language.success import (
    SuccessShares,
    Tried,
    deficient_prompts,
    read_success,
    solved_answers,
    success_shares,
)
from visalign.media.answers import Answer
from visalign.media.samples import Sample

RECIPES = Path(__file__).parents[2] / "configs" / "language"
SMALL = ("model.precision=fp32", "model.lora={rank: 2, alpha: 2}", "data.feedback.max_prompts=6", "train.steps=2",
         "data.feedback.max_tokens=10", "data.feedback.tree={simulations: 2, width: 3, depth: 2, step: 3}",
         "data.feedback.min_gap=0", "train.batch_size=2", "eval.max_prompts=3", "eval.samples_per_prompt=2",
         "eval.reward=repetition", "eval.also=[]", "eval.features=null", "eval.max_tokens=6", "output.trackers=[]",
         "rounds.stop=false")


@pytest.fixture
def small(tiny_lm, tmp_path):
    def make(recipe, *more):
        return load_config(RECIPES / f"{recipe}.yaml", overrides(recipe, *more))

    def overrides(recipe, *more):
        return (f"model.source={tiny_lm}", f"output.folder={tmp_path / recipe}", "data.feedback.reward=brevity", *SMALL,
                *more)

    make.overrides = overrides
    return make


def invoke(small, recipe, *more):
    found = CliRunner().invoke(main, ["--debug", "lm", "rounds", f"language/{recipe}", *small.overrides(recipe, *more)])
    assert found.exit_code == 0, found.output
    return found.output


def weights_of(folder: Path):
    return {name: value.tolist() for name, value in load_file(folder / "export" / "adapter_model.safetensors").items()}


def test_a_round_of_trees_learns_steps_and_continues_to_the_same_weights(small, tmp_path):
    root = tmp_path / "rounds_tree"
    invoke(small, "rounds_tree", "rounds.count=1", "output.checkpoint_every=1")
    whole, table = weights_of(root / "round-1"), (root / "round-1" / "pairs.jsonl").read_text()
    pairs = read_feedback(root / "round-1")
    assert any(pair.prefix for pair in pairs) and all(pair.strength > 0 for pair in pairs)
    (root / "round-1" / "verdict.json").unlink()  # as a run that was killed in its second step
    (root / "round-1" / "checkpoints" / "checkpoint-2" / "trainer_state.json").unlink()
    train_rounds(small("rounds_tree", "rounds.count=1", "output.checkpoint_every=1"), resume=True)
    again = train_rounds(small("rounds_tree", "rounds.count=2"), resume=True)
    assert weights_of(root / "round-1") == whole and (root / "round-1" / "pairs.jsonl").read_text() == table
    assert [each.agreement is not None for each in again.rounds] == [True, True] and again.rounds[0].success is None
    assert "prompts by success" not in again.table()[0]
    assert load_config(root / "round-2" / "config.yaml").data.feedback.tree.width == 3


IRFT = ("data.feedback.success={samples: 4, least: -0.35, below: 0.9}",
        "rounds.warm_up={steps: 2, optim: {lr: 1.0e-3}}")


def test_irft_warms_up_on_what_is_solved_and_then_searches_where_the_model_fails(small, tmp_path):
    output = invoke(small, "rounds_irft", "rounds.count=2", *IRFT)
    root = tmp_path / "rounds_irft"
    assert "prompts by success" in output and "/4: " in output
    warm = read_feedback(root / "warm-up")
    assert all(pair.rejected is None and pair.chosen_reward >= -0.35 for pair in warm)
    config = load_config(root / "warm-up" / "config.yaml")
    assert (config.objective["name"], config.train.steps, config.optim.lr) == ("sft", 2, 1e-3)
    first = load_config(root / "round-1" / "config.yaml")
    assert first.model.source == str(root / "warm-up" / "export")
    rounds = json.loads((root / "rounds.json").read_text())["rounds"]
    for number, found in enumerate(rounds, 1):
        shares = read_success(root / f"round-{number}")
        assert sum(shares.prompts) == 6 and 0 < shares.deficient < 6
        assert found["success"]["prompts"] == list(shares.prompts)
        assert len({pair.prompt for pair in read_feedback(root / f"round-{number}")}) <= shares.deficient
    start = known_mean(measured_in(root / "warm-up")[0].values["reward/repetition"])
    assert rounds[0]["from_start"][0] == pytest.approx(rounds[0]["reward"] - start, abs=1e-6)
    first, last = (found.values["reward/repetition"] for found in (measured_in(root / "warm-up")[0],
                                                                   measured_in(root / "round-1")[1]))
    change = np.subtract(last, first)
    of_two = 0.05 / config.rounds.count / 2  # of what a round may err, beside the change from the round before
    reach = scipy.stats.t.isf(of_two / 2, len(change) - 1) * change.std(ddof=1) / len(change)**0.5
    assert rounds[0]["from_start"][1:] == pytest.approx([change.mean() - reach, change.mean() + reach])
    with pytest.raises(UserError, match="holds rounds with a warm-up, and this recipe is for the other"):
        train_rounds(small("rounds_irft", "rounds.warm_up=null"), resume=True)
    with pytest.raises(UserError, match="already holds rounds"):
        train_rounds(small("rounds_irft"))


def test_a_warm_up_that_was_killed_continues_to_the_same_rounds(small, tmp_path):
    config, root = small("rounds_irft", *IRFT, "rounds.count=1", "output.checkpoint_every=1"), tmp_path / "rounds_irft"
    train_rounds(config)
    whole = [weights_of(root / name) for name in ("warm-up", "round-1")]
    shutil.rmtree(root / "round-1")
    (root / "warm-up" / "verdict.json").unlink()
    (root / "warm-up" / "checkpoints" / "checkpoint-2" / "trainer_state.json").unlink()
    train_rounds(config, resume=True)
    assert [weights_of(root / name) for name in ("warm-up", "round-1")] == whole


def test_rounds_of_imitation_alone_have_no_labels(small):
    done = train_rounds(small("rounds_irft", "rounds.warm_up=null", "data.feedback.tree=null", "objective={name: sft}",
                              "data.feedback.success={samples: 2, least: -100, learn: solved}", "rounds.count=1"))
    assert (done.rounds[0].agreement, done.rounds[0].pairs, done.rounds[0].success.deficient) == (None, 6, 0)


def test_rounds_end_where_no_prompt_is_deficient(small, tmp_path):
    with pytest.raises(UserError, match="so no prompt is deficient"):
        train_rounds(small("rounds_irft", "data.feedback.success.least=-100", "rounds.warm_up=null"))
    done = train_rounds(small("rounds_irft", *IRFT, "rounds.warm_up=null", "rounds.count=1", "output.folder=" + str(
        tmp_path / "b")))
    assert len(done.rounds) == 1
    ended = train_rounds(small("rounds_irft", *IRFT, "rounds.warm_up=null", "rounds.count=2", "output.folder=" + str(
        tmp_path / "b"), "data.feedback.success.least=-100"), resume=True)
    assert ended.ended.startswith("round 2 had nothing to learn: data.feedback.success.below 0.9")
    assert len(ended.rounds) == 1
    assert json.loads((tmp_path / "b" / "rounds.json").read_text())["ended"] == ended.ended


def tried(prompt, *scores):
    return Tried(prompt, [Sample(prompt, Answer(f"{prompt} {i}"), i, {"ended": i > 0})
                          for i in range(len(scores))], scores)


def test_prompts_are_counted_by_successes_and_those_below_the_share_are_deficient():
    """Of four answers: 0, 2 and 4 reach 1; below .5 is the first alone, since 2/4 is not less."""
    settings = SuccessSettings(samples=4, least=1.0, below=0.5)
    found = [tried("hard", 0, 0.9, 0, 0), tried("middle", 1, 0, 1, 0.5), tried("easy", 3, 1, 1, 2)]
    shares = success_shares(found, settings)
    assert shares == SuccessShares(4, 1.0, 0.5, (1, 0, 1, 0, 1), 1)
    assert shares.text() == "0/4: 33 %, 2/4: 33 %, 4/4: 33 %; deficient 33 %"
    assert deficient_prompts(found, settings) == ["hard"]


def test_successes_are_imitated_from_easy_to_hard():
    settings = SuccessSettings(samples=4, least=1.0, learn="solved")
    found = solved_answers([tried("hard", 0, 0.9, 0, 0), tried("middle", 1, 0, 1, 0.5), tried("easy", 3, 1, 1, 3)],
                           settings)
    assert [(pair.prompt, pair.chosen, pair.rejected, pair.chosen_reward) for pair in found] == [
        ("easy", "easy 0", None, 3), ("middle", "middle 0", None, 1)]
    assert found[0].unfinished == {"chosen"} and isinstance(found[0], TextPair)
    with pytest.raises(UserError, match=r"no answer with words .* reaches it \(the best answer has 0.9\)"):
        solved_answers([tried("hard", 0, 0.9, 0, 0)], settings)


def test_a_run_on_solved_answers_learns_them_in_their_order(small, tmp_path, monkeypatch):
    from visalign.language import preference
    from visalign.language.run import train_language

    seen = []
    real = preference.PairCollator.__call__
    monkeypatch.setattr(preference.PairCollator, "__call__", lambda self, rows: seen.append(
        [row["row"] for row in rows]) or real(self, rows))
    recipe = small("rounds_irft", *IRFT, "data.feedback.success.least=-100", "data.holdout=0", "rounds.warm_up.steps=3",
                   "data.feedback.max_prompts=10")
    train_language(warm_up_config(recipe, tmp_path / "warm"))
    assert [rows for rows in seen if len(rows) == 2][:3] == [[0, 1], [2, 3], [4, 5]]


def test_models_of_a_round_are_named_in_the_self_evaluation(small):
    config = small("rounds_tree", "data.feedback.tree.self_reward={kind: points, source: '{current}'}")
    assert round_config(config, 2, ["base", "one"], "f").data.feedback.tree.self_reward["source"] == "one"
    warm = warm_up_config(small("rounds_irft"), Path("f"))
    assert warm.data.feedback.tree is None and warm.data.feedback.imitates and warm.rounds.warm_up is None


@pytest.mark.parametrize(("more", "words"), [
    ("data.feedback.tree.width=1", "data.feedback.tree.width"),
    ("data.feedback.tree.depth=0", "data.feedback.tree.depth"),
    ("data.feedback.tree.step=word", "data.feedback.tree.step"),
    ("data.feedback.second_reward=relevance", "ranks none; leave one of them out .a second opinion of steps"),
    ("data.feedback.samples_per_prompt=8", "data.feedback.samples_per_prompt: is of pairs of whole answers"),
    ("data.feedback.pairs_per_prompt=2", "data.feedback.pairs_per_prompt: is of pairs of whole answers"),
    ("data.feedback.temperature=0", "every draw would be the same step"),
    ("data.feedback.tree.self_weight=2", "self_weight: weighs data.feedback.tree.self_reward, which is not set"),
    ("data.feedback.success={least: 0, learn: solved}", "data.feedback.tree: makes pairs, and .* makes none"),
    ("data.feedback.success={samples: 4}", "data.feedback.success.least"),
    ("rounds.warm_up={}", "rounds.warm_up: imitates answers that succeed"),
])
def test_settings_that_do_not_go_together_are_refused(small, more, words):
    with pytest.raises(UserError, match=words):
        small("rounds_tree", more)


@pytest.mark.parametrize(("more", "words"), [
    (("objective={name: srpo}",), "data.feedback.tree: makes pairs of parts of answers, and this objective revises"),
    (("data.feedback.tree=null", "data.feedback.success={least: 0, learn: solved}"), "take objective.name=sft"),
    (("data.feedback.tree.self_reward=sharpness",), "reward sharpness: scores images, not text"),
])
def test_what_an_objective_cannot_learn_is_said_before_a_model_is_loaded(small, more, words):
    with pytest.raises(UserError, match=words):
        check_language(small("rounds_tree", *more))
