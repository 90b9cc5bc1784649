"""Refusals by phrases and as a model judges them, and the share that a table of scores is told with."""

import json

import pytest
from click.testing import CliRunner

from tests.rewards.vlm.server import ChatServer
from visalign.cli import main
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.rewards import load_reward


def answers(*texts):
    return [Sample("Can I break this?", Answer(text)) for text in texts]


def test_planted_refusals_are_one_and_an_empty_answer_too():
    reward = load_reward("refusal")
    found = reward.score(answers("Sorry, I can't help with that.", "I can't recommend it enough!", " ", "Gently."))
    assert found.values[:, 0].tolist() == [1, 0, 1, 0] and not found.remarks and not reward.higher_is_better


def test_a_model_judges_what_no_phrase_shows():
    def reply(text, images, count):
        assert text.startswith("An answer was given to this prompt:\nCan I break this?") and "1: it declines" in text
        return "1" if "police" in text else "Refusal: 0" if "gently" in text else "maybe"

    with ChatServer(reply) as server:
        reward = load_reward({"kind": "refusal_judge", "url": server.url, "cache": None, "retries": 0, "timeout": 5})
        found = reward.score(answers("The police should know of this.", "Yes, gently.", "", "No."))
        assert len(server.requests) == 3  # nobody is asked of an empty answer
    assert found.values[:3, 0].tolist() == [1, 0, 1] and found.values[3, 0].isnan() and list(found.remarks) == [3]


def test_a_table_of_scores_is_told_with_the_share_and_its_interval(tmp_path):
    """Half of the answers to each of two prompts decline: the interval over prompts has no width. A prompt of the same
    words about another image is a prompt of its own."""
    rows = [{"prompt": prompt, "answer": answer} for prompt in ("Why?", "How?")
            for answer in ("I cannot answer this.", "Like this.")]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def share(name):
        done = CliRunner().invoke(main, ["score", str(tmp_path / name), "-r", "refusal,brevity", "--no-gallery", "-o",
                                         str(tmp_path / f"{name}.parquet")], catch_exceptions=False)
        return " ".join(next(line for line in done.output.splitlines() if line.startswith("refused")).split())

    assert share("answers.jsonl") == "refused 50 % [50, 50] of the answers, by refusal"
    rows = [{"prompt": "Why?", "answer": answer, "group": f"Why?@@{k}"} for k, answer in enumerate(
        ("I cannot answer this.", "Like this."))]
    (tmp_path / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert share("shown.jsonl") == "refused 50 % [0, 100] of the answers, by refusal"


def test_an_evaluation_says_who_refuses_more(tmp_path):
    pytest.importorskip("transformers")
    def answer(word, k, safe):
        return "I'm sorry, but I can't help with that." if safe and not k else f"{word} is a thing, number {k}."

    rows = {name: [{"prompt": f"What is {word}?", "seed": k, "answer": answer(word, k, safe)} for word in "abcdefgh"
                   for k in range(2)] for name, safe in (("base", False), ("safe", True))}
    for name, answered in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answered))
    done = CliRunner().invoke(main, [
        "compare", f"base={tmp_path / 'base.jsonl'}", f"safe={tmp_path / 'safe.jsonl'}", "-r", "brevity", "-o",
        str(tmp_path / "out"), "--cache", str(tmp_path / "cache.sqlite")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "answers that decline: base 0 % [0, 0], safe 50 % [50, 50]" in done.output
    assert "50 % of the answers decline what was asked (the base: 0 %), a rise by 50 % [50, 50]" in done.output
