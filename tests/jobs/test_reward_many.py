"""`visalign reward eval --many` from end to end: what it tells, writes and refuses."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.jobs import reward_many as module


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", "eval", *map(str, arguments)], catch_exceptions=False)


def square(folder, name, red):
    """An image that is the more saturated the larger `red` is, from 0 to 255."""
    Image.new("RGB", (16, 16), (255, 255 - red, 255 - red)).save(folder / name)
    return name


def write(folder, groups, column="quality"):
    """groups: of each prompt (saturation, rating, kind) of its samples."""
    rows = [{"prompt": f"square {p}", "image": square(folder, f"{p}-{k}.png", red), "kind": kind} | (
        {} if rating is None else {column: rating})
        for p, samples in enumerate(groups) for k, (red, rating, kind) in enumerate(samples)]
    table = folder / "rated.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


FIRST = [(200, 5, "easy"), (100, 1, "easy"), (50, 2, "easy")]
SECOND = [(100, 5, "hard"), (200, 4, "hard"), (50, 1, "hard")]
TIES = [(200, "good", "hard"), (190, "good", "hard"), (50, "bad", "hard")]
ALIKE = [(200, 3, ""), (100, 3, "")]


def test_the_right_one_of_many_is_counted_by_kind(tmp_path):
    """Two of three prompts have a right one first, the third in place 2: 2/3 and 5/6; of its ties one of one passes."""
    table = write(tmp_path, [FIRST, SECOND, TIES, ALIKE, [(10, None, ""), (20, 4, "")]])
    out = tmp_path / "out"
    done = invoke("saturation", table, "--many", "-o", out)
    assert done.exit_code == 0, done.output
    found = json.loads((out / "many.json").read_text())["dimensions"]["quality"]
    whole = found["overall"]
    assert whole["prompts"] == 3 and whole["samples"] == 3 and found["alike"] == 2 and found["not_scored"] == 0
    assert whole["accuracy"][0] == pytest.approx(2 / 3) and whole["reciprocal_rank"][0] == pytest.approx(5 / 6)
    assert whole["accuracy_by_chance"] == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)
    assert whole["pair_accuracy"][0] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert whole["ties"] == 1 and whole["passed"][0] == 1
    assert found["parts"]["easy"]["accuracy"][0] == 1 and found["parts"]["hard"]["accuracy"][0] == 1 / 2
    assert "quality      all                    3     3.0  0.667 [" in done.output
    assert "left out: 2 prompts rated alike, 0 not scored" in done.output
    page = (out / "report.html").read_text()
    assert "Where a wrong one is farthest above" in page and "square 1" in page and "square 0" not in page


def test_a_reward_that_prefers_the_worst_has_no_right_one_first(tmp_path):
    """Both right ones come last of three: accuracy 0, reciprocal rank 1/3, no pair won."""
    table = write(tmp_path, [[(red, -red, "") for red in (250, 150, 50)]] * 2)
    done = invoke("saturation", table, "--many", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    whole = json.loads((tmp_path / "out" / "many.json").read_text())["dimensions"]["quality"]["overall"]
    assert (whole["accuracy"][0], whole["pair_accuracy"][0], whole["independent"]) == (0, 0, 0)
    assert whole["reciprocal_rank"][0] == pytest.approx(1 / 3) and whole["places"] == [3, 3]


def test_texts_are_tested_as_well(tmp_path):
    """Brevity likes the short answer, which is the right one of the first prompt alone."""
    rows = [{"prompt": prompt, "answer": answer, "helpful": rating} for prompt, answer, rating in (
        ("Why?", "Yes.", 2), ("Why?", "Yes. " * 40, 1), ("How?", "No.", 1), ("How?", "So, " * 40, 2))]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = invoke("brevity", tmp_path / "rated.jsonl", "--many", "--dimensions", "helpful", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "many.json").read_text())["dimensions"]["helpful"]["overall"]["accuracy"][
        0] == 0.5
    assert "Yes." not in (tmp_path / "out" / "report.html").read_text().split("How?")[0].split("farthest above")[-1]


def test_mistakes_end_in_one_sentence_before_anything_is_scored(tmp_path, monkeypatch):
    table = write(tmp_path, [ALIKE, [(200, 5, "")]])
    with monkeypatch.context() as without:
        without.setattr(module, "score_rated", None)
        alike = invoke("saturation", table, "--many", "-o", tmp_path / "a")
        assert alike.exit_code == 1 and "rated otherwise than each other in quality" in alike.output
        lacking = invoke("saturation", table, "--many", "--dimensions", "qualty", "-o", tmp_path / "b")
        assert lacking.exit_code == 1 and "no row has a label in qualty (did you mean 'quality'?)" in lacking.output
        edits = invoke("saturation", table, "--many", "--no-edits", "-o", tmp_path / "c")
        assert edits.exit_code == 1 and "--many has no robustness test" in edits.output
    other = invoke("motion", write(tmp_path, [FIRST]), "--many", "-o", tmp_path / "d")
    assert other.exit_code == 1 and "could not score all samples of any prompt" in other.output
    assert not (tmp_path / "d").exists()
