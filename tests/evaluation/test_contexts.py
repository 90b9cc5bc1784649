"""`reward eval` where a context says what counts: rewards read it, and reversals are reported."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.data.annotations import AnnotatedMedia, Annotation, read_annotations
from visalign.errors import UserError
from visalign.jobs.reward_eval import evaluate_reward
from visalign.rewards import build_reward
from visalign.rewards.base import RewardModel


class Asked(RewardModel):
    """The brighter one, or the darker one where the prompt asks for it."""

    needs_prompt = True

    def score_batch(self, samples):
        import torch

        return torch.tensor([[(-1 if sample.prompt.endswith("prefer the darker one") else 1)
                              * float(sample.image.getpixel((0, 0))[0])] for sample in samples])


@pytest.fixture
def table(tmp_path):
    lines = []
    for i in range(6):
        for side, level in (("a", 40 + 10 * i), ("b", 200)):
            Image.new("RGB", (32, 32), (level,) * 3).save(tmp_path / f"{i}{side}.png")
        for context, winner in (("prefer the brighter one", "b"), ("prefer the darker one", "a")):
            lines.append({"prompt": f"a thing {i}", "a": f"{i}a.png", "b": f"{i}b.png", "quality": winner,
                          "context": context})
    (tmp_path / "contexts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "contexts.jsonl"


def test_a_reward_that_reads_contexts_is_told_from_one_that_does_not(table, tmp_path):
    items = read_annotations(str(table), ("quality",))
    assert items[1].prompt == "a thing 0" and items[1].sample("a", 1).prompt == "a thing 0, prefer the darker one"
    reads = evaluate_reward(Asked(), items, tmp_path / "reads", edits=False)["quality"].reversals
    blind = evaluate_reward(build_reward("exposure"), items, tmp_path / "blind", edits=False)["quality"].reversals
    assert (reads.couples, reads.both.value, blind.both.value, blind.single.value) == (6, 1.0, 0.0, 0.5)
    assert "Labels that a context turns round" in (tmp_path / "blind" / "report.html").read_text()
    written = json.loads((tmp_path / "blind" / "eval.json").read_text())["dimensions"]["quality"]
    assert written["reversals"]["couples"] == 6


def test_it_is_printed_and_absent_without_contexts(table, tmp_path):
    result = CliRunner().invoke(main, ["reward", "eval", "exposure", str(table), "-o", str(tmp_path / "e")])
    assert result.exit_code == 0 and "of 6 couples that contexts turn round, 0.000" in result.output
    read = read_annotations(str(table), ("quality",))
    items = [Annotation(item.a, item.b, item.outcome, item.where) for item in read]
    assert evaluate_reward(build_reward("exposure"), items, tmp_path / "f", edits=False)["quality"].reversals is None
    assert "turns round" not in (tmp_path / "f" / "report.html").read_text()


def test_an_edit_s_context_stays_with_the_words_of_its_prompt(tmp_path):
    from visalign.media.source_images import split_prompt

    Image.new("RGB", (8, 8)).save(tmp_path / "s.png")
    side = AnnotatedMedia("make it red", str(tmp_path / "s.png"), (str(tmp_path / "s.png"),))
    sample = Annotation(side, side, {"quality": 1.0}, "row", context="softly").sample("b", 1)
    words, files = split_prompt(sample.source_prompt)
    assert words == sample.prompt == "make it red, softly" and [file.name for file in files] == ["s.png"]


def test_a_context_that_is_no_text_is_named(table):
    row = json.loads(table.read_text().splitlines()[0]) | {"context": 3}
    table.write_text(json.dumps(row))
    with pytest.raises(UserError, match="line 1: 'context' is not text but int"):
        read_annotations(str(table), ("quality",))
