"""Rules by which pipelines combine predictions, told apart by what is left over."""

import pytest
import torch

from visalign.generators.observe.guidance import GUIDANCE_TOLERANCE, GuidanceRule, combine, fit_guidance


def outputs():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(1, 5, 4, generator=rng), torch.randn(1, 5, 4, generator=rng)


@pytest.mark.parametrize("renormalise", ["none", "last axis", "whole sample"])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_each_rule_is_told_from_the_others(place, shift, renormalise):
    pair = outputs()
    guided = combine(pair[1 - place], pair[place], 3.0 + shift, renormalise)
    found = fit_guidance(pair, guided, 3.0)
    assert found[:3] == (place, shift, renormalise) and found[3] < 1e-6


def test_by_hand():
    unguided, wanted = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 2.0]]])
    assert combine(unguided, wanted, 2.0, "none").tolist() == [[[-1.0, 4.0]]]
    scaled = combine(unguided, wanted, 2.0, "last axis")  # of norm 2, as the conditional one
    torch.testing.assert_close(scaled, torch.tensor([[[-1.0, 4.0]]]) * 2 / 17**0.5)


def test_an_unknown_rule_leaves_much_over():
    unguided, wanted = outputs()
    assert fit_guidance((unguided, wanted), unguided + 3 * (wanted - unguided).relu(), 3.0)[3] > 10 * GUIDANCE_TOLERANCE


def test_one_meaning_of_the_scale():
    """A scale of 5 here is 4 for a pipeline that adds s (c - u) to c; 1 is off, whatever the pipeline calls off."""
    shifted = GuidanceRule("guidance_scale", shift=1.0, off=0.0)
    assert shifted.given(5.0) == 4.0 and shifted.given(1.0) == 0.0
    assert GuidanceRule("guidance_scale", embedded=True).given(1.0) == 1.0
