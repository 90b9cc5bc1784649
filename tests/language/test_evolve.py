import pytest

from visalign.config.adapter import EvolveSettings
from visalign.language import evolve as module
from visalign.language.evolve import (
    Attempt,
    by_model,
    conversation,
    kept_front,
    parse_rate,
    read_attempts,
    write_attempts,
)
from visalign.language.rewrite_rules import plain_prompt, rule_rewrites
from visalign.media.answers import Answer
from visalign.media.samples import Sample

NAN = float("nan")


def attempt(rewrite="x", *scores, overall=None, prompt="p", refused=None):
    return Attempt(prompt, rewrite, "rules", 1, scores, sum(scores) if overall is None else overall, refused)


@pytest.mark.parametrize(("asked", "plainly"), [
    ("a drawing of red apple, please", "red apple"), ("could you draw a fox?", "a fox"),
    ("please draw swan for me", "swan"), ("could you show me bus grows?", "bus grows"),
    ("I would like to see an image of a lighthouse", "a lighthouse"), ("a video of frog turns, please", "frog turns"),
    ("please", "please"), ("a red fox", "a red fox"),
])
def test_politeness_and_framing_are_left_out(asked, plainly):
    assert (plain_prompt(asked) or asked) == plainly


def test_rewrites_by_rule_in_their_order():
    assert list(rule_rewrites("a drawing of a big dog, please")) == [
        "a big dog", "big dog", "a large dog", "a big puppy", "a dog", "a big"]
    assert list(rule_rewrites("dog")) == ["puppy"]
    assert list(rule_rewrites("swan")) == []  # nothing to leave out, and no text stays


def test_what_no_other_is_better_than_in_every_reward_is_kept():
    """(3, 1) and (1, 3) are on the front, (2, 2) too; (1, 1) is not, nor what has no score. Sums: 4.05, 4.1, 4, 2."""
    pool = [attempt("a", 3, 1.05), attempt("b", 1, 3.1), attempt("c", 1, 1), attempt("d", 2, 2), attempt("e", NAN, 9)]
    assert [each.rewrite for each in kept_front(pool, 9)] == ["b", "a", "d"]
    assert [each.rewrite for each in kept_front(pool, 1)] == ["b"]


def test_the_model_sees_what_was_tried_with_its_scores_best_first():
    talk = conversation("a fox", [attempt("a fox", 0.5), attempt("fox", 1.0), attempt("bad", NAN)], 2)
    assert talk[-1]["content"] == "Prompt: a fox\n1.00: fox\n0.50: a fox"
    assert talk[2]["content"].count("<PROMPT>") == 2 and "Write 2 new rewrites" in talk[0]["content"]


class Lab:
    """by_model reads no more of a laboratory than its settings, and what the generator makes."""

    class config:
        evolve, seed = EvolveSettings(per_round=2), 0

    class store:
        class generator:
            modality = "video"


def test_answers_in_another_format_are_asked_for_once_more_and_counted(monkeypatch, tmp_path):
    """Of two prompts one is right at once, the other never: 3 answers, 1 in the format, 1 prompt without rewrites."""
    two, asked = "<PROMPT>fox</PROMPT><PROMPT>a red fox</PROMPT>", []

    def answers(_, talks, *__, **___):
        assert all("a generator of videos" in talk[0]["content"] for talk in talks)
        prompts = [talk[-1]["content"].splitlines()[0].removeprefix("Prompt: ") for talk in talks]
        asked.append(prompts)
        return [Sample(prompt, Answer(two if prompt == "a fox" else f"{two}<PROMPT>third</PROMPT>"))
                for prompt in prompts]

    monkeypatch.setattr(module, "sample_answers", answers)
    (tmp_path / "evolve").mkdir()
    pools = {"a fox": [attempt("a red fox", 1.0, prompt="a fox")], "a cat": [attempt("a cat", 1.0, prompt="a cat")],
             "<|im_end|>": []}
    found = by_model(Lab, pools, object(), 1, tmp_path / "evolve")
    assert [(each.prompt, each.rewrite, each.by) for each in found] == [("a fox", "fox", "llm")]  # the other is known
    assert asked == [["a fox", "a cat"], ["a cat"]] and parse_rate(tmp_path) == (1, 3)


def test_attempts_are_kept_with_what_is_not_known(tmp_path):
    before = [attempt("a", 1.0, NAN, overall=NAN), attempt("b", 1.0, 2.0, refused="tags")]
    write_attempts(tmp_path / "a.jsonl", before)
    assert "NaN" not in (tmp_path / "a.jsonl").read_text()
    after = read_attempts(tmp_path / "a.jsonl")
    assert after[1] == before[1] and not after[0].known and after[0].scores[0] == 1.0
