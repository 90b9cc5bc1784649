"""Where leaves of a tree part, and what manifests say of them."""

import json

import pytest

from visalign.data.generations import find_generations
from visalign.data.leaves import Leaf, leaf_at, leaf_of_row
from visalign.errors import UserError


def test_leaves_part_where_their_digits_first_differ():
    leaves = [leaf_at(place, (2, 6, 9)) for place in range(16)]
    assert [each.tree for each in leaves] == [0] * 8 + [1] * 8
    assert [each.number for each in leaves[8:]] == list(range(8))
    parted = {(a, b): leaves[a].parted_from(leaves[b]) for a in range(8) for b in range(a)}
    assert parted[1, 0] == 9 and parted[2, 0] == parted[3, 1] == 6 and parted[4, 3] == parted[7, 0] == 2
    assert [list(parted.values()).count(step) for step in (2, 6, 9)] == [16, 8, 4]
    assert leaves[1].parted_from(leaves[0]) == leaves[0].parted_from(leaves[1])
    for other in (leaves[0], leaves[8], leaf_at(1, (2,))):
        with pytest.raises(ValueError, match="not two leaves of one tree"):
            leaves[0].parted_from(other)


def test_a_row_says_which_leaf_it_is():
    leaf = leaf_at(5, (2, 6))
    assert leaf == Leaf(1, 1, (2, 6)) and leaf_of_row(leaf.as_row(), "row 1") == leaf
    assert leaf_of_row({"prompt": "a"}, "row 1") is None and leaf_of_row({"leaf": "oak"}, "row 1") is None


@pytest.mark.parametrize("said", [{}] + [dict(zip(("tree", "number", "branches"), each, strict=True)) for each in (
    (0, 4, [2, 6]), (-1, 0, [2]), (0, 0, [6, 2]), (0, 0, []), (True, 0, [1]), (0, 0, list(range(6))))])
def test_an_unusable_leaf_is_told_with_its_row(said, tmp_path):
    with pytest.raises(UserError, match="row 3: leaf is .*; expected a tree, a number below"):
        leaf_of_row({"leaf": said}, "row 3")
    (tmp_path / "list.jsonl").write_text(json.dumps({"prompt": "a", "image": "a.png", "leaf": said}) + "\n")
    [entry] = find_generations(tmp_path / "list.jsonl")
    assert entry.leaf is None and "expected a tree" in entry.problem
