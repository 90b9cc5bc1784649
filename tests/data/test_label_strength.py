"""data.strength: labels turned and doubted by the columns of `visalign reward annotate`."""

import json
import random
from dataclasses import replace

import pytest

from visalign.config import DataSettings
from visalign.config.load import parse_config
from visalign.config.offline import LabelStrengthSettings
from visalign.data.annotations import read_annotations
from visalign.data.label_strength import as_annotated, say_what_was_turned, smoothed
from visalign.data.preference_pair import PreferencePair
from visalign.data.preferences import read_pairs
from visalign.errors import UserError

PAIR = PreferencePair("p", "good.png", "bad.png", "row 1", chosen_reward=2.0, rejected_reward=1.0)


def by(pair=PAIR, flip_chance=0.347036, margin=0.75, **settings):
    """The columns are those of members' margins (1, 2, -.5, .5)."""
    row = {"flip_chance": flip_chance, "margin": margin}
    return as_annotated(pair, row, "row 1", LabelStrengthSettings(**settings))


def test_the_margin_is_the_strength_and_nothing_else_changes():
    assert by() == replace(PAIR, strength=0.75, label_margin=0.75)
    assert by(margin=5.0).strength == 3.0 and by(margin=5.0, most=4.0).strength == 4.0
    assert by(margin=-0.75, flip_chance=0.652964).strength == 0.0


def test_a_pair_that_is_surely_wrong_is_turned_with_its_margin():
    turned = by(margin=-2.0, flip_chance=0.9, flip=0.9)
    assert turned == replace(PAIR, chosen="bad.png", rejected="good.png", chosen_reward=1.0, rejected_reward=2.0,
                             strength=2.0, label_margin=2.0, turned=True)
    assert not by(margin=-2.0, flip_chance=0.899, flip=0.9).turned


def test_a_soft_label_is_right_with_what_is_left_of_the_flip_chance():
    assert by(soft=True).chance == pytest.approx(0.652964)
    assert by(margin=-0.75, flip_chance=0.652964, soft=True).chance == 0.5  # not below: the label would be the other
    assert by(margin=-2.0, flip_chance=0.9, flip=0.9, soft=True).chance == pytest.approx(0.9)


def test_turning_twice_what_two_opposite_labels_say_is_the_same_pair():
    other = replace(PAIR.swapped(), where="row 1")
    settings = {"flip": 0.5, "soft": True}
    mine, theirs = by(**settings), by(other, flip_chance=1 - 0.347036, margin=-0.75, **settings)
    assert replace(theirs, turned=False, chance=mine.chance) == mine and theirs.chance == pytest.approx(mine.chance)


def test_a_label_without_a_value_stays_as_it_is():
    assert by(flip_chance=None, margin=None, flip=0.5, soft=True) == PAIR


@pytest.mark.parametrize("row, chance, said", [
    ({"margin": 1.0}, 1.0, "has no column 'flip_chance', which data.strength reads; write it with `visalign"),
    ({"flip_chance": 0.2}, 1.0, "has no column 'margin'"),
    ({"flip_chance": 1.2, "margin": 1.0}, 1.0, "'flip_chance' is 1.2 (allowed: 0 to 1)"),
    ({"flip_chance": "high", "margin": 1.0}, 1.0, "'flip_chance' is 'high', not a number"),
    ({"flip_chance": 0.2, "margin": 1.0}, 0.8, "has a chance of its own (0.8)")])
def test_rows_that_cannot_be_read_are_named(row, chance, said):
    with pytest.raises(UserError) as failed:
        as_annotated(replace(PAIR, chance=chance), row, "table row 7", LabelStrengthSettings(soft=True))
    assert str(failed.value).startswith("table row 7: ") and said in str(failed.value)


def test_smoothing_is_of_the_labels_below_0_and_of_the_strongest_tenth():
    items = [replace(PAIR, label_margin=margin) for margin in (-1.0, 0.0, *range(1, 19))]
    found = smoothed([*items, PAIR], 0.1)
    assert [item.label_margin for item in found if item.chance < 1] == [-1.0, 17, 18]
    assert {item.chance for item in found} == {0.9, 1.0} and found[-1] == PAIR
    assert [item.chance for item in smoothed(items[1:3], 0.1)] == [1.0, 0.9]
    assert smoothed([PAIR], 0.1) == [PAIR]


def test_what_was_turned_is_said(capsys):
    say_what_was_turned(LabelStrengthSettings(flip=0.9), 10, 3, 2)
    said = capsys.readouterr().err
    assert "3 of 10 pairs, whose flip_chance is at least 0.9, are turned round" in said and "2 of 10 pairs" in said
    with pytest.raises(UserError, match="empty in all 10 pairs"):
        say_what_was_turned(LabelStrengthSettings(soft=True), 10, 0, 10)


@pytest.mark.parametrize("data, said", [
    ({"strength": {"soft": True, "smooth": 0.1}}, "set one of them"),
    ({"strength": {"flip": 0.4}}, "data.strength.flip is 0.4: it must be at least 0.5"),
    ({"strength": {"smooth": 0.5}}, "data.strength.smooth is 0.5: it must be below 0.5"),
    ({"strength": {"most": 0}}, "data.strength.most"),
    ({"strength": {"turn": 0.9}}, "unknown key data.strength.turn"),
    ({"strength": {}, "rerank": True, "score_with": "contrast"}, "data.strength and data.rerank both"),
    ({"strength": {}, "goals": {}}, "data.strength changes nothing with data.goals"),
    ({"strength": {}, "path": None, "feedback": {}}, "data.feedback makes its own")])
def test_settings_that_do_not_go_together_are_refused(data, said):
    with pytest.raises(UserError) as failed:
        parse_config({"model": {"source": "tiny-sd3"}, "data": {"path": "x"} | data,
                      "objective": {"name": "flow_dpo"}})
    assert said in str(failed.value)


def test_annotations_that_rewards_learn_from_are_turned_and_doubted(pairs_file):
    first = json.loads(pairs_file.read_text().splitlines()[0])
    row = {"prompt": "p", "a": first["chosen"], "b": first["rejected"], "quality": "A", "motion": "same"}
    table = pairs_file.with_name("told.jsonl")

    def read(*rows, **settings):
        table.write_text("\n".join(json.dumps(row | more) for more in rows))
        return read_annotations(str(table), ("quality", "motion"), strength=LabelStrengthSettings(**settings))

    wrong, right, unknown = {"flip_chance": 0.95, "margin": -2.5}, {"flip_chance": 0.2, "margin": 1.5}, {
        "flip_chance": None, "margin": None}
    found = read(wrong, right, unknown, flip=0.9, soft=True)
    assert [item.outcome for item in found] == [{"quality": value, "motion": 0.5} for value in (0.0, 1.0, 1.0)]
    assert [item.strength for item in found] == [2.5, 1.5, 1.0]
    assert [item.turned for item in found] == [True, False, False]
    assert [item.chance for item in found] == pytest.approx([0.95, 0.8, 1.0])
    assert [item.as_labelled().outcome["quality"] for item in found] == [1.0, 1.0, 1.0]
    assert {item.as_labelled().chance for item in found} == {1.0}
    assert [item.chance for item in smoothed(read(wrong, right), 0.1)] == [0.9, 0.9]  # below 0, and the strongest
    with pytest.raises(UserError, match="has no column 'flip_chance', which data.strength reads"):
        read({}, flip=0.9)
    table.write_text(json.dumps({"prompt": "p", "media": first["chosen"], "quality": "good"}))
    with pytest.raises(UserError, match="is a single item, of whose label data.strength says nothing"):
        read_annotations(str(table), ("quality",), strength=LabelStrengthSettings())
    pairs_file.write_text(json.dumps(first | wrong))
    [pair] = read_annotations(str(pairs_file), ("quality",), strength=LabelStrengthSettings(flip=0.9))
    assert pair.turned and pair.strength == 2.5 and pair.as_labelled().outcome == {"quality": 0.0}


def test_comparisons_and_pairs_of_several_sources_are_turned(pairs_file):
    first = json.loads(pairs_file.read_text().splitlines()[0])
    columns = {"flip_chance": 0.95, "margin": -2.5}
    rows = [first | columns, {"prompt": "p", "a": first["chosen"], "b": first["rejected"], "VQ": "B"} | columns]
    for name, row in zip("ab", rows, strict=True):
        pairs_file.with_name(f"{name}.jsonl").write_text(json.dumps(row))
    sources = tuple({"path": str(pairs_file.with_name(f"{name}.jsonl"))} for name in "ab")
    pairs = list(read_pairs(DataSettings(sources=sources, strength={"flip": 0.9})))
    assert [pair.chosen.split("/")[-1] for pair in pairs] == ["red-rejected.png", "red-chosen.png"]
    assert [pair.strength for pair in pairs] == [2.5, 2.5] and all(pair.turned for pair in pairs)
    swapped = list(read_pairs(DataSettings(sources=sources, strength={"flip": 0.9}, swap=True)))
    assert [pair.rejected for pair in swapped] == [pair.chosen for pair in pairs]


def test_planted_flips_are_found_by_a_reward_that_knows_the_drawings(tmp_path):
    """A fifth of 40 pairs of drawings is turned on purpose; tiny-reward, which has seen such drawings, finds them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from visalign.data.embedded_pairs import drawing_rows
    from visalign.jobs.annotate import annotate

    rows = [row for _, row in random.Random(0).sample(list(drawing_rows()), 40)]
    planted = set(range(0, 40, 5))
    pq.write_table(pa.Table.from_pylist([
        row | ({"chosen": row["rejected"], "rejected": row["chosen"]} if number in planted else {})
        for number, row in enumerate(rows)]), tmp_path / "noisy.parquet")
    annotate("tiny-reward", str(tmp_path / "noisy.parquet"), ("alignment",), tmp_path / "annotated.parquet")
    pairs = list(read_pairs(DataSettings(path=str(tmp_path / "annotated.parquet"), strength={"flip": 0.9})))
    found = {number for number, pair in enumerate(pairs) if pair.turned}
    precision, recall = len(found & planted) / len(found), len(found & planted) / len(planted)
    assert precision >= 0.8 and recall >= 0.7, (precision, recall)
    right = sum(pair.chosen == row["chosen"] for pair, row in zip(pairs, rows, strict=True))
    assert right > 32  # of 40, where 32 were right before
