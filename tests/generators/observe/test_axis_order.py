"""Latents in another order, by axes where that suffices."""

import pytest
import torch

from visalign.generators.observe.latents import axis_order, selection

CPU = torch.device("cpu")
GRID = torch.arange(2 * 4 * 6).view(2, 4, 6)
PACKED = GRID.view(2, 2, 2, 3, 2).permute(1, 3, 0, 2, 4)  # patches of 2x2 as tokens, as many pipelines pack


@pytest.mark.parametrize("picked", [PACKED, GRID.permute(1, 2, 0), GRID.flatten().view(6, 8).T, GRID[1:],
                                    GRID.view(8, 6)[2:6].T])
def test_an_order_of_axes_takes_no_gather(picked):
    found = selection(tuple(picked.shape), picked.flatten(), (1, GRID.numel()), CPU)
    assert found.index is None
    samples = torch.randn(3, *GRID.shape, requires_grad=True)
    expected = samples.flatten(1)[:, picked.flatten()].view(3, *picked.shape)
    assert torch.equal(found(samples), expected)
    weights = torch.randn_like(expected)
    mine, theirs = (torch.autograd.grad((each * weights).sum(), samples)[0] for each in (found(samples), expected))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("picked", [GRID.flip(2), GRID[..., ::2], GRID.flatten()[torch.randperm(48)],
                                    torch.tensor([0, 1, 2, 3, 3, 4, 5, 6])])
def test_any_other_order_is_gathered(picked):
    assert axis_order(picked.flatten()) is None
    found = selection(tuple(picked.shape), picked.flatten(), (1, GRID.numel()), CPU)
    samples = torch.randn(3, *GRID.shape)
    assert torch.equal(found(samples), samples.flatten(1)[:, picked.flatten()].view(3, *picked.shape))
