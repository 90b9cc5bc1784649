"""Which part of a network's arguments is a sample's, seen from one and from two of them."""

import pytest
import torch

from visalign.errors import UserError
from visalign.generators.observe.arguments import layout_of


def arguments(values):
    count = len(values)
    texts = torch.stack([torch.full((3, 2), float(v)) for v in values])
    return {"x": [torch.full((4,), float(v)) for v in values], "layers": torch.stack([texts, 2 * texts]),
            "ids": torch.arange(3), "added": {"size": texts[:, 0], "none": None}, "lengths": [int(v) for v in values],
            "shapes": [[(1, 4, 4)]] * count, "rotary": (torch.ones(3), torch.zeros(3)), "return_dict": False}


def test_samples_are_found_on_any_axis_in_lists_and_nested_arguments():
    layout = layout_of(arguments([1]), arguments([1, 1]))
    rows = layout.rows(arguments([5, 7]), 2, set())
    assert rows[1]["x"].tolist() == [7.0] * 4 and rows[1]["layers"].shape == (2, 3, 2)
    assert rows[0]["added.size"].tolist() == [5.0, 5.0] and rows[1]["lengths"].item() == 7
    assert "ids" not in rows[0] and "shapes" not in rows[0]
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    again, wanted = layout.joined(batch, 2, {}), arguments([5, 7])
    assert torch.equal(again["layers"], wanted["layers"]) and again["lengths"] == [5, 7]
    assert again["shapes"] == wanted["shapes"] and torch.equal(again["added"]["size"], wanted["added"]["size"])
    assert all(torch.equal(a, b) for a, b in zip(again["x"], wanted["x"], strict=True))


def test_a_shared_argument_that_a_prompt_changes_goes_with_the_prompt():
    layout = layout_of(arguments([1]), arguments([1, 1]))
    [row] = layout.rows(arguments([1]) | {"ids": torch.arange(5)}, 1, set())
    assert row["ids"].tolist() == [0, 1, 2, 3, 4]
    assert layout.joined({name: value[None] for name, value in row.items()}, 1, {})["ids"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("two, words", [({"a": torch.ones(5, 2)}, r"the argument a is \(2, 2\) for a prompt"),
                                        ({}, "the argument a disappears")])
def test_what_is_not_understood_is_named(two, words):
    with pytest.raises(UserError, match=words):
        layout_of({"a": torch.ones(2, 2)}, two)
