"""MaPO: numbers worked out by hand."""

import math

import pytest
import torch

from visalign.objectives import PairErrors
from visalign.objectives.mapo import MaPO


def errors(chosen, rejected, **more):
    numbers = [torch.tensor([each], dtype=torch.float64, requires_grad=True) for each in (chosen, rejected)]
    return PairErrors(numbers[0], torch.full((1,), 0.5), torch.ones(1), numbers[1], **more)


def test_loss_by_hand():
    # f(0.2) = 0.1 / (e^0.1 - 1) = 0.950833, f(0.201) = 0.950591; 0.2 + 0.1 * -log s(0.241649) = 0.257960
    outcome = MaPO()(errors(0.2, 0.201))
    assert outcome.metrics["margin"].item() == pytest.approx(0.241649, abs=1e-6)
    assert outcome.loss.item() == pytest.approx(0.257960, abs=1e-6)
    assert outcome.metrics["implicit_accuracy"].item() == 1
    single = PairErrors(*(torch.tensor([each]) for each in (0.2, 0.5, 1.0, 0.201)))
    assert MaPO()(single).loss.item() == pytest.approx(0.257960, abs=1e-5), "in float32, as a run takes it"


def test_equal_errors_are_no_preference_and_pull_both_apart():
    pair = errors(0.2, 0.2)
    MaPO()(pair).loss.backward()
    # d/dE_w = 1 + 0.1 * 1000 f'(0.2) / 2, f' = s (e^x - 1 - x e^x) / (e^x - 1)^2 at x = 0.1: -0.241669
    x = 0.1
    slope = 0.5 * (math.expm1(x) - x * math.exp(x)) / math.expm1(x) ** 2
    assert slope == pytest.approx(-0.241669, abs=1e-6)
    assert pair.chosen.grad.item() == pytest.approx(1 - 50 * slope)
    assert pair.rejected.grad.item() == pytest.approx(50 * slope)
    assert MaPO()(errors(0.2, 0.2)).loss.item() == pytest.approx(0.2 + 0.1 * math.log(2))


def test_likelihood_is_1_without_an_error_falls_and_is_finite_everywhere():
    error = torch.tensor([0.0, 1e-30, 1e-6, 0.2, 1.0, 50.0, 1e4], requires_grad=True)
    found = MaPO().likelihood(error)
    assert found[:2].tolist() == [1, 1] and found[2].item() == pytest.approx(1 - 0.25e-6)
    assert found[4].item() == pytest.approx(0.5 / math.expm1(0.5)) and found[-1].item() == 0
    assert (found[1:] <= found[:-1]).all()
    found.sum().backward()
    assert error.grad.isfinite().all()


def test_without_the_preference_it_is_imitation():
    assert MaPO(beta=0.0)(errors(0.2, 0.9)).loss.item() == pytest.approx(0.2)


def test_a_soft_label_is_the_mean_over_both_labels_and_a_certain_one_changes_nothing():
    right, wrong = (MaPO()(errors(*pair)).loss.item() for pair in ((0.2, 0.201), (0.201, 0.2)))
    soft = MaPO()(errors(0.2, 0.201, chance=torch.tensor([0.75]))).loss.item()
    assert soft == pytest.approx(0.75 * right + 0.25 * wrong)
    assert MaPO()(errors(0.2, 0.201, chance=torch.ones(1))).loss.item() == right


def test_a_loss_weight_counts_a_pair_more():
    assert MaPO()(errors(0.2, 0.201, weight=2.0)).loss.item() == pytest.approx(2 * 0.257960, abs=1e-5)


def test_it_sees_no_reference_and_refuses_numbers_out_of_range():
    assert MaPO().needs == {"rejected"}
    for name in ("sharpness", "scale"):
        with pytest.raises(ValueError, match=name):
            MaPO(**{name: 0.0})
