"""Batches of prompts that have different lengths."""

import pytest
import torch

from visalign.errors import UserError
from visalign.generators.observe.rows import equally_long, is_ragged, join, stack, unstack

SHORT = {"text": torch.ones(2, 3), "pooled": torch.tensor([1.0])}
LONG = {"text": torch.full((4, 3), 2.0), "pooled": torch.tensor([2.0])}


def test_equal_rows_are_a_plain_stack():
    batch = stack([SHORT, SHORT])
    assert batch["text"].shape == (2, 2, 3) and not is_ragged(batch)


def test_padding_is_taken_off_again():
    batch = stack([SHORT, LONG])
    assert batch["text"].shape == (2, 4, 3) and batch["text#0"].tolist() == [2, 4]
    assert batch["text"][0, 2:].abs().sum() == 0
    for row, own in zip(unstack(batch), (SHORT, LONG), strict=True):
        assert all(torch.equal(row[name], own[name]) for name in own)


def test_batches_of_other_lengths_are_joined():
    both = join([stack([SHORT, SHORT]), stack([LONG])])
    assert both["text#0"].tolist() == [2, 2, 4]
    assert sorted(sorted(group.tolist()) for group in equally_long(both)) == [[0, 1], [2]]


def test_rows_with_other_inputs_cannot_share_a_batch():
    with pytest.raises(UserError, match="one has the input mask, another has not"):
        stack([SHORT, {**LONG, "mask": torch.ones(4)}])
