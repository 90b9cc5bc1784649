"""Single images that are good or bad: what is read, and what is refused."""

import json
from collections import Counter

import pytest
from PIL import Image

from visalign.config import DataSettings
from visalign.data.preferences import read_pairs
from visalign.data.thumbs import check_both_kinds
from visalign.data.usable import check_pair_sources
from visalign.errors import UserError


@pytest.fixture
def table(tmp_path):
    """Writes rows of JSONL whose images exist."""
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 40, 9)).save(tmp_path / f"{number}.png")

    def write(*rows):
        (tmp_path / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "thumbs.jsonl"

    return write


def read(path, **settings):
    """(file, whether it is good) of each sample, and what is wrong."""
    broken = []
    pairs = read_pairs(DataSettings(path=str(path), **settings), on_bad_row=broken.append, compared=False,
                       labelled=True)
    found = [(pair.chosen.rsplit("/")[-1][0], pair.desirable) for pair in pairs if pair.rejected is None]
    return found, list(map(str, broken))


def labelled(number, label, **more):
    return {"prompt": "a cat", "image": f"{number}.png", "label": label} | more


@pytest.mark.parametrize("good, bad", [(True, False), ("true", "False"), (1, 0), ("good", "bad"), ("up", "Down"),
                                       ("yes", "no"), (1.0, 0.0)])
def test_a_label_says_which_samples_are_good(table, good, bad):
    assert read(table(labelled(0, good), labelled(1, bad))) == ([("0", True), ("1", False)], [])


@pytest.mark.parametrize("format", ["auto", "captioned"])
def test_a_label_beside_ratings_is_what_counts(table, format):
    rows = [labelled(0, True, VQ=1.0), labelled(1, False, VQ=5.0)]
    assert read(table(*rows), format=format) == ([("0", True), ("1", False)], [])


def test_a_chosen_sample_alone_may_have_a_label(table):
    file = table({"prompt": "a cat", "chosen": "0.png", "label": False}, labelled(1, True))
    assert read(file) == ([("0", False), ("1", True)], [])


def test_pairs_are_a_good_and_a_bad_sample(table):
    file = table({"prompt": "a cat", "chosen": "0.png", "rejected": "1.png", "chance": 0.75, "chosen_reward": 3.0},
                 {"prompt": "a dog", "path1": "2.png", "path2": "3.png"})
    assert read(file) == ([("0", True), ("1", False), ("2", True), ("3", False)], [])
    first, second, *_ = read_pairs(DataSettings(path=str(file)), compared=False, labelled=True)
    assert first.chance == second.chance == 0.75 and first.chosen_reward is None


def test_ratings_are_good_from_a_threshold_on(table):
    rows = [{"prompt": "a cat", "image": f"{number}.png", "VQ": number, "TA": 2} for number in range(4)]
    # means of both: 1, 1.5, 2, 2.5
    assert [good for _, good in read(table(*rows), good_from=2.0)[0]] == [False, False, True, True]
    assert [good for _, good in read(table(*rows), good_from=2.0, dimensions={"VQ": 1.0})[0]] == [
        False, False, True, True]
    assert [good for _, good in read(table(*rows), good_from=-1.0, dimensions={"VQ": -1.0})[0]] == [
        True, True, False, False]
    assert len(read(table(*rows))[0]) == 12, "without one they are pairs"


def test_a_threshold_is_for_ratings(table):
    rows = [labelled(0, True, stars=5), labelled(1, False, stars=2)]
    found, broken = read(table(*rows, labelled(2, True, VQ=4)), good_from=3.0)
    assert found == [("2", True)] and len(broken) == 2
    assert "line 1: has no ratings for data.good_from (its columns are image, label, prompt" in broken[0]
    assert read(table(*rows), good_from=3.0, dimensions={"stars": 1.0}) == ([("0", True), ("1", False)], [])


@pytest.mark.parametrize("row, words", [
    ({"prompt": "a cat", "image": "0.png"}, "line 1: 'label' is missing; true or false says whether the one sample of "
                                            "this row is good (or give pairs: prompt, chosen, rejected; or ratings"),
    (labelled(0, None), "line 1: 'label' is empty"), (labelled(0, " "), "line 1: 'label' is empty"),
    (labelled(0, "great"), "line 1: 'label' is 'great' (allowed: true or false, yes or no, 1 or 0)"),
    (labelled(0, 7), "line 1: 'label' is '7'")])
def test_a_row_that_does_not_say_whether_it_is_good_is_broken(table, row, words):
    found, [broken] = read(table(row, labelled(1, True)))
    assert words in broken and found == [("1", True)]


def test_other_objectives_do_not_look_at_labels(table):
    file = table(labelled(0, "class 7"))
    [pair] = read_pairs(DataSettings(path=str(file)), compared=False)
    assert pair.desirable is None and pair.rejected is None


def test_samples_of_one_kind_are_refused(table):
    def fails(file, **settings):
        with pytest.raises(UserError) as error:
            check_pair_sources(DataSettings(path=str(file), **settings), compared=False, labelled=True)
        return str(error.value)

    good = table(labelled(0, True), labelled(1, True), labelled(2, False))
    assert check_pair_sources(DataSettings(path=str(good)), compared=False, labelled=True).pairs == 3
    assert "all 2 samples among those that data.max_pairs reads are good" in fails(good, max_pairs=2)
    assert "all 2 samples are bad, and this objective learns from good ones and bad ones together; add good ones" in (
        fails(table(labelled(0, False), labelled(1, False))))
    rows = [{"prompt": "a cat", "image": f"{number}.png", "VQ": number} for number in range(2)]
    assert "are bad with data.good_from 9" in fails(table(*rows), good_from=9.0)


def test_both_kinds_are_enough():
    check_both_kinds(Counter({True: 1, False: 1}), "data x", DataSettings())
