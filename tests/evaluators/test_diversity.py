"""Diversity within a prompt: the checks of Vendi and its kin, by hand."""

import math

import pytest
import torch

from visalign.evaluators.diversity import (
    distance,
    effective_rank,
    per_prompt,
    spectrum,
    spread_ratio,
    vendi,
)

ALIKE = torch.tensor([[[1.0, 0, 0, 0]] * 4])
ORTHOGONAL = torch.eye(4)[None]
TWO_KINDS = torch.tensor([[[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]])


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, math.inf])
def test_vendi_of_equal_orthogonal_and_paired_generations(order):
    for features, expected in ((ALIKE, 1.0), (ORTHOGONAL, 4.0), (TWO_KINDS, 2.0)):
        assert vendi(spectrum(features), order).item() == pytest.approx(expected, abs=1e-6)


def test_vendi_of_uneven_kinds_by_hand():
    # three of one kind and one of another: eigenvalues 3/4 and 1/4
    features = torch.tensor([[[1.0, 0], [1, 0], [1, 0], [0, 1]]])
    values = spectrum(features)
    assert values[0, -2:].tolist() == pytest.approx([0.25, 0.75])
    assert vendi(values).item() == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert vendi(values, 2.0).item() == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert vendi(values, math.inf).item() == pytest.approx(1 / 0.75)
    assert vendi(values, 0.5).item() == pytest.approx((math.sqrt(0.75) + math.sqrt(0.25)) ** 2)


def test_orders_fall_and_stay_between_one_and_the_number_of_generations():
    features = torch.nn.functional.normalize(torch.randn(5, 6, 16), dim=-1)
    values = spectrum(features)
    scores = torch.stack([vendi(values, order) for order in (0.5, 1.0, 2.0, math.inf)])
    assert (scores.diff(dim=0) <= 1e-9).all() and (scores >= 1).all() and (scores <= 6).all()


def test_distance_is_the_mean_over_pairs():
    features = torch.nn.functional.normalize(torch.randn(3, 5, 8), dim=-1).double()
    for p in range(3):
        pairs = [1 - (features[p, i] @ features[p, j]).item() for i in range(5) for j in range(i)]
        assert distance(features)[p].item() == pytest.approx(sum(pairs) / len(pairs))
    assert distance(torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])).item() == pytest.approx(2 / 3)


def test_effective_rank_counts_directions():
    assert effective_rank(spectrum(ALIKE)).item() == pytest.approx(1, abs=1e-5)
    assert effective_rank(spectrum(ORTHOGONAL)).item() == pytest.approx(4)
    assert effective_rank(spectrum(TWO_KINDS)).item() == pytest.approx(2, abs=1e-5)


def test_extra_is_the_vendi_score_less_one():
    found = per_prompt(TWO_KINDS)
    assert found["extra"].item() == pytest.approx(1) and found["vendi"].item() == pytest.approx(2)


def test_spread_ratio_is_the_share_of_variance_within_prompts():
    apart = torch.tensor([[[1.0, 0]] * 3, [[0.0, 1]] * 3])  # all variance is between prompts
    assert spread_ratio(apart).value == pytest.approx(0)
    inside = torch.tensor([[[1.0, 0], [0, 1]]] * 3)  # every prompt has the same two
    assert spread_ratio(inside).value == pytest.approx(1)
    # within: 1/2 of each prompt; between: means (1/2, 1/2) and (1, 0) lie 1/8 from their middle
    mixed = torch.tensor([[[1.0, 0], [0, 1]], [[1.0, 0], [1, 0]]])
    assert spread_ratio(mixed).value == pytest.approx(0.25 / (0.25 + 0.125))


def test_one_generation_and_bad_features_are_refused():
    with pytest.raises(ValueError, match="at least two"):
        spectrum(torch.ones(3, 1, 4))
    broken = ORTHOGONAL.repeat(2, 1, 1).clone()
    broken[1, 2, 0] = float("nan")
    with pytest.raises(ValueError, match="prompt 2 are not finite"):
        spectrum(broken)


def test_a_thousand_prompts_of_64_are_done_in_pieces():
    features = torch.nn.functional.normalize(torch.randn(130, 64, 32), dim=-1)
    assert vendi(spectrum(features)).shape == (130,)
