"""Encodings as they are stored come back: exactly, or rounded where that is asked for."""

import torch

from visalign.sampling.compact import compact, restored

ENTRY = {"embeds": torch.cat([torch.randn(3, 4), torch.zeros(5, 4)]), "zeros": torch.zeros(6, 2),
         "mask": torch.tensor([1, 1, 0]), "sizes": torch.tensor([1025.0, 0.0]), "half": torch.randn(2, 2).half(),
         "negative": torch.full((2, 2), -0.0), "pooled": torch.randn(4)}


def test_zeros_at_the_end_are_not_stored_and_come_back():
    stored = compact(ENTRY)
    assert sum(len(stored[name]) for name in stored if name.startswith(("embeds", "zeros"))) == 3
    found = restored(stored)
    assert found.keys() == ENTRY.keys()
    for name, tensor in ENTRY.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        assert torch.equal(found[name].signbit(), tensor.signbit())


def test_numbers_are_rounded_once_and_whole_ones_are_not():
    stored = compact(ENTRY, torch.bfloat16)
    assert {name.partition("|")[0]: tensor.dtype for name, tensor in stored.items() if tensor.is_floating_point()} == {
        "embeds": torch.bfloat16, "zeros": torch.bfloat16, "sizes": torch.float32, "half": torch.float16,
        "negative": torch.bfloat16, "pooled": torch.bfloat16}
    found = restored(stored)
    for name in ("embeds", "pooled"):
        assert torch.equal(found[name], ENTRY[name].bfloat16().float())
    for name in ("zeros", "mask", "sizes", "half", "negative"):
        assert torch.equal(found[name], ENTRY[name]) and found[name].dtype == ENTRY[name].dtype
    assert all(torch.equal(tensor, compact(found, torch.bfloat16)[name]) for name, tensor in stored.items())
