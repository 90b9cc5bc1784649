"""DPG-Bench: dependencies and totals by hand, the table that it ships, and a model that answers."""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.rewards.vlm.server import ChatServer
from visalign.data.suites import SuitePrompt
from visalign.errors import UserError
from visalign.evaluation.suites.dpg import DPG_COLUMNS, DpgBench, Statement, read_statements, with_parents
from visalign.media.samples import Sample
from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.questions import Reply

ROWS = [("p1", 1, "0", "entity - whole (cat)", "Is there a cat?"),
        ("p1", 2, "1", "attribute - color (cat, black)", "Is the cat black?"),
        ("p1", 3, "2", "relation - spatial (cat, mat, on)", "Is the black cat on a mat?"),
        ("p1", 4, "0", "entity - whole (mat)", "Is there a mat?"),
        ("p2", 1, "0", "entity - whole (dog)", "Is there a dog?"),
        ("p2", 2, "1", "attribute - color (dog, red)", "Is the dog red?")]
ITEMS = [SuitePrompt("a black cat on a mat", "p1"), SuitePrompt("a red dog", "p2")]


@pytest.fixture
def suite(tmp_path):
    """The folder of prompts, with the table beside it."""
    (tmp_path / "prompts").mkdir()
    for item in ITEMS:
        (tmp_path / "prompts" / f"{item.key}.txt").write_text(item.prompt)
    write(tmp_path / "dpg_bench.csv", ROWS)
    return tmp_path / "prompts"


def write(file, rows, columns=DPG_COLUMNS):
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(rows)


class FakeModel:
    """Says yes to what a dict of questions says."""

    def __init__(self, yes):
        self.yes = yes

    def check(self):
        pass

    def read_noted(self, questions, read):
        found = []
        for question in questions:
            words = question.text.splitlines()[0]
            said = self.yes.get(words, 0)
            found.append((said if isinstance(said, Failure) else read(Reply(f"Answer: {said}")), None))
        return found


def test_a_child_is_0_where_its_parent_is_and_so_is_a_grandchild():
    statements = [Statement(number, tuple(int(p) for p in parents.split(",") if p != "0"), category, question)
                  for _, number, parents, category, question in ROWS[:4]]
    assert with_parents(statements, {1: 1, 2: 1, 3: 1, 4: 0}) == {1: 1, 2: 1, 3: 1, 4: 0}
    assert with_parents(statements, {1: 0, 2: 1, 3: 1, 4: 1}) == {1: 0, 2: 0, 3: 0, 4: 1}


def test_totals_by_hand(suite):
    """p1: images of 4/4, and of no cat but a mat 1/4: 0.625. p2: a dog that is not red 1/2. The mean is 56.25."""
    scorer = DpgBench(path=str(suite))
    figures = {each.name: each for each in scorer.figures(ITEMS, [
        [{1: 1, 2: 1, 3: 1, 4: 1}, {1: 0, 2: 1, 3: 1, 4: 1}], [{1: 1, 2: 0}]])}
    assert figures["DPG-Bench score"].value.value == 56.25 and figures["DPG-Bench score"].headline
    # categories by the answers themselves: entities 1 1 0 1 1, colours 1 1 0, spatial 1 1
    assert figures["entity"].value.value == figures["entity - whole"].value.value == 80 and figures["entity"].count == 5
    assert figures["attribute"].value.value == pytest.approx(200 / 3)
    assert figures["relation - spatial"].value.value == 100
    assert np.isfinite(figures["DPG-Bench score"].value.low)


def test_a_model_answers_every_question(suite):
    scorer = DpgBench(path=str(suite))
    scorer.model = FakeModel({"Is there a cat?": 1, "Is the cat black?": 1})
    scorer.check(ITEMS)
    assert scorer.score(ITEMS[0], Sample("x", Image.new("RGB", (8, 8)))) == {1: 1, 2: 1, 3: 0, 4: 0}
    scorer.model = FakeModel({"Is there a cat?": Failure("the server was silent")})
    with pytest.raises(UserError, match="'Is there a cat\\?' was not answered: the server was silent"):
        scorer.score(ITEMS[0], Sample("x", Image.new("RGB", (8, 8))))


def test_a_vlm_behind_an_endpoint_answers(suite, tmp_path):
    asked = []

    def reply(text, images, count):
        asked.append((text.splitlines()[0], len(images)))
        return "Answer: 1" if "dog?" in text else "Answer: 0"

    with ChatServer(reply) as server:
        (tmp_path / "vlm.yaml").write_text(f"kind: vlm\nurl: {server.url}\ncache: null\n")
        scorer = DpgBench(path=str(suite), vqa=str(tmp_path / "vlm.yaml"))
        assert scorer.score(ITEMS[1], Sample("x", Image.new("RGB", (8, 8)))) == {1: 1, 2: 0}
    assert sorted(asked) == [("Is the dog red?", 1), ("Is there a dog?", 1)]


def test_what_is_missing_is_named_before_a_model_is_asked(suite):
    with pytest.raises(UserError, match="name the model that answers, as --with vqa=vlm:"):
        DpgBench(path=str(suite)).check(ITEMS)
    with pytest.raises(UserError, match="vqa is sharpness; expected a `vlm` reward"):
        DpgBench(path=str(suite), vqa="sharpness").check(ITEMS)
    with pytest.raises(UserError, match="has no question on the prompt p9"):
        DpgBench(path=str(suite)).check([SuitePrompt("x", "p9")])
    with pytest.raises(UserError, match="no such file; name the suite's dpg_bench.csv"):
        DpgBench(path=str(suite), questions=str(suite / "x.csv")).check(ITEMS)


@pytest.mark.parametrize("rows, columns, said", [
    ([("p1", "one", "0", "entity", "?")], DPG_COLUMNS, "line 2: proposition_id and dependency must be whole numbers"),
    ([("p1", 1, "7", "entity", "?")], DPG_COLUMNS, "question 1 of p1 depends on 7, which is none of its questions"),
    ([("p1", 1)], ("item_id", "proposition_id"), "has no column dependency")])
def test_wrong_tables_are_named(tmp_path, rows, columns, said):
    write(tmp_path / "x.csv", rows, columns)
    with pytest.raises(UserError, match=said):
        read_statements(tmp_path / "x.csv")
