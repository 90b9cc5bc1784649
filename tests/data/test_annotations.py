"""Annotations: comparisons, single items paired across prompts, preference sets, and broken rows."""

import json

import pytest
from PIL import Image

from visalign.data.annotations import cross_prompt_pairs, read_annotations
from visalign.data.rows import BadRow
from visalign.errors import UserError

DIMENSIONS = ("alignment", "quality")


@pytest.fixture
def table(tmp_path):
    for name in "ab":
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")

    def write(*rows):
        file = tmp_path / "annotations.jsonl"
        file.write_text("\n".join(json.dumps({"prompt": "p", **row}) for row in rows))
        return str(file)

    return write


def test_comparisons_have_outcomes_by_dimension_and_missing_labels_stay_missing(table):
    rows = read_annotations(
        table(
            {"a": "a.png", "b": "b.png", "alignment": "b", "quality": "tie", "strength": 2},
            {"a": "a.png", "b": "b.png", "alignment": None, "quality": "a", "quality_a": 4},
        ),
        DIMENSIONS,
    )
    assert rows[0].outcome == {"alignment": 0.0, "quality": 0.5} and rows[0].strength == 2
    assert rows[1].outcome == {"quality": 1.0} and rows[1].rating_a == {"quality": 4.0} and rows[1].rating_b == {}
    assert rows[0].a.sample("x", 4).image.size == (8, 8)


@pytest.mark.parametrize(
    "row, word",
    [
        ({"a": "a.png", "b": "b.png"}, "no label in any"),
        ({"a": "a.png", "b": "b.png", "quality": "better"}, "allowed: a, b, tie"),
        ({"a": "a.png", "quality": "a"}, "'b' is missing"),
        ({"a": "a.png", "b": "gone.png", "quality": "a"}, "gone.png"),
        ({"a": "a.png", "b": "b.png", "quality": "a", "strength": "much"}, "not a number"),
        ({"prompt": " ", "a": "a.png", "b": "b.png", "quality": "a"}, "is empty"),
    ],
)
def test_broken_rows_name_line_and_what_is_allowed(table, row, word):
    with pytest.raises(BadRow, match=f"line 1.*{word}"):
        read_annotations(table(row), DIMENSIONS)


def test_single_items_meet_bad_ones_of_other_prompts_and_equals_as_ties(table):
    rows = read_annotations(
        table(
            {"prompt": "x", "media": "a.png", "quality": "good"},
            {"prompt": "y", "media": "b.png", "quality": "bad"},
            {"prompt": "z", "media": "a.png", "quality": "good"},
        ),
        DIMENSIONS,
    )
    outcomes = [(row.a.prompt, row.b.prompt, row.outcome["quality"]) for row in rows]
    assert ("x", "y", 1.0) in outcomes and ("z", "y", 1.0) in outcomes and ("x", "z", 0.5) in outcomes
    decided = [row for row in rows if row.outcome["quality"] != 0.5]
    assert {row.b.prompt for row in decided if row.outcome["quality"] == 1} == {"y"}
    assert all(row.rating_a["quality"] == (row.a.prompt != "y") for row in rows)


def test_cross_prompt_pairs_stay_linear_and_repeat():
    singles = [(object(), {"quality": float(i % 2)}, f"row {i}", "") for i in range(100)]
    singles = [(type("Item", (), {"prompt": str(i)})(), *rest) for i, (_, *rest) in enumerate(singles)]
    first, second = (list(cross_prompt_pairs(singles, 3)) for _ in range(2))
    assert len(first) == 200 and [p.where for p in first] == [p.where for p in second]


def test_a_broken_or_foreign_row_among_good_ones_is_named(table, tmp_path):
    good = {"a": "a.png", "b": "b.png", "quality": "a"}
    file = table(good, {"chosen": "a.png"})
    with pytest.raises(BadRow, match="line 2: names neither"):
        read_annotations(file, DIMENSIONS)
    (tmp_path / "annotations.jsonl").write_text(json.dumps({"prompt": "p", **good}) + "\nnot json\n")
    with pytest.raises(BadRow, match="line 2.*not readable as JSON"):
        read_annotations(file, DIMENSIONS)


def test_an_hpd_file_and_a_missing_one_go_to_the_readers_of_preference_sets(table, tmp_path):
    table()
    rows = [{"prompt": "p", "image_path": ["a.png", "b.png"], "human_preference": [0, 1]}]
    (tmp_path / "hpd.json").write_text(json.dumps(rows))
    found = read_annotations(str(tmp_path / "hpd.json"), DIMENSIONS)
    assert found[0].a.media.endswith("b.png") and found[0].outcome == {"alignment": 1.0}
    with pytest.raises(UserError, match="nowhere.txt"):
        read_annotations(str(tmp_path / "nowhere.txt"), DIMENSIONS)


def test_one_sided_items_are_no_annotation(table):
    with pytest.raises(UserError, match="both good and bad"):
        read_annotations(table({"media": "a.png", "quality": "good"}), DIMENSIONS)


def test_a_preference_set_counts_for_the_first_dimension(pairs_file):
    rows = read_annotations(str(pairs_file), DIMENSIONS)
    assert len(rows) == 6 and all(row.outcome == {"alignment": 1.0} for row in rows)
