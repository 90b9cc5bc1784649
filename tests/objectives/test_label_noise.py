"""Losses that allow for flipped labels: worked-out numbers, what they are without flips, slopes, and a learnt share."""

import math

import pytest
import torch
import torch.nn.functional as F

from visalign.objectives.label_noise import FlipRate, LabelNoise
from visalign.objectives.reward_model import RewardModelLoss

M = torch.tensor([-4.0, -0.3, 0.0, 2.0])


def sides(m):
    return -F.logsigmoid(m), -F.logsigmoid(-m)


@pytest.mark.parametrize("name, expected", [
    ("forward_rate", 0.217363),  # -log(0.9 s(2) + 0.1 s(-2)) = -log(0.9 * 0.880797 + 0.1 * 0.119203)
    ("label_smoothing", 0.326928),  # 0.9 * 0.126928 + 0.1 * 2.126928
    ("flip_rate", -0.123072),  # (0.9 * 0.126928 - 0.1 * 2.126928) / 0.8
])
def test_three_losses_of_one_margin(name, expected):
    assert LabelNoise(**{name: 0.1}).loss(*sides(torch.tensor(2.0))).item() == pytest.approx(expected, abs=1e-6)


def test_without_flips_each_is_bradley_terry_to_the_bit():
    agree, disagree = sides(M)
    for name in vars(LabelNoise()):
        assert torch.equal(LabelNoise(**{name: 0.0}).loss(agree, disagree), agree)
    assert not LabelNoise() and LabelNoise(forward_rate=0.1)


def test_a_label_that_is_contradicted_is_let_go_of():
    m = torch.tensor(-4.0, dtype=torch.float64, requires_grad=True)
    LabelNoise(forward_rate=0.1).loss(*sides(m)).backward()
    assert m.grad.item() == pytest.approx(-0.123527, abs=1e-6)  # Bradley-Terry: -s(4) = -0.982014
    far = torch.tensor(-40.0, requires_grad=True)
    loss = LabelNoise(forward_rate=0.1).loss(*sides(far))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(0.1), abs=1e-6) and abs(far.grad.item()) < 1e-6


def test_the_slope_is_the_chance_that_the_label_is_right_less_what_is_believed():
    m, e = M.double().requires_grad_(), 0.2
    noise = LabelNoise(forward_rate=e)
    assert torch.autograd.gradcheck(lambda m: noise.loss(*sides(m)), m)
    noise.loss(*sides(m)).sum().backward()
    s = m.detach().sigmoid()
    flipped = e * (1 - s) / ((1 - e) * s + e * (1 - s))
    torch.testing.assert_close(m.grad, s - (1 - flipped))


def test_the_probabilities_of_both_labels_add_to_one():
    noise = LabelNoise(forward_rate=0.3)
    torch.testing.assert_close(sum((-noise.loss(*pair)).exp() for pair in (sides(M), sides(-M))), torch.ones(4))


def test_with_ties_the_three_outcomes_still_add_to_one():
    objective = RewardModelLoss(ties="davidson", nu=0.7, forward_rate=0.2)
    chances = [(-objective.pair_loss(M, torch.full_like(M, outcome), torch.ones(4))).exp() for outcome in (1, 0.5, 0)]
    torch.testing.assert_close(sum(chances), torch.ones(4))


def test_a_learnt_rate_gives_the_loss_of_a_known_one():
    logit = torch.tensor(math.log(0.1 / 0.9))
    learnt = LabelNoise(forward_rate="learn")
    torch.testing.assert_close(learnt.loss(*sides(M), logit), LabelNoise(forward_rate=0.1).loss(*sides(M)))
    with pytest.raises(ValueError, match="flip_logit"):
        learnt.loss(*sides(M))


def test_the_slope_of_a_learnt_rate_is_its_value_less_the_mean_chance_of_a_flip():
    rate = FlipRate(100)
    assert rate.rate == pytest.approx(0.1)
    slope = rate.slope(LabelNoise(forward_rate="learn").loss(*sides(M), rate.logit).mean())
    s = M.sigmoid()
    assert slope.item() == pytest.approx(0.1 - (0.1 * (1 - s) / (0.9 * s + 0.1 * (1 - s))).mean().item(), abs=1e-6)
    before = rate.logit.item()
    rate.follow(slope)  # at the prior's mean the prior has no slope
    assert rate.logit.item() == pytest.approx(before - 0.1 * slope.item(), abs=1e-6)


def test_what_is_followed_is_the_posterior():
    # -log of Beta(2, 18) as a density of a: -2 log e - 18 log(1 - e), over 50 labels
    rate, noise = FlipRate(50), LabelNoise(forward_rate="learn")
    rate.load_state_dict({"flip_logit": torch.tensor(-0.4)})
    a = torch.tensor(-0.4, requires_grad=True)
    posterior = noise.loss(*sides(M), a).mean() - (2 * F.logsigmoid(a) + 18 * F.logsigmoid(-a)) / 50
    posterior.backward()
    rate.follow(rate.slope(noise.loss(*sides(M), rate.logit).mean()))
    assert rate.logit.item() == pytest.approx(-0.4 - 0.1 * a.grad.item(), abs=1e-6)


def test_the_share_of_flips_is_found_where_margins_are_known():
    generator = torch.Generator().manual_seed(0)
    m = 3 * torch.randn(4000, generator=generator)
    label = torch.where(torch.rand(4000, generator=generator) < m.sigmoid(), 1.0, -1.0)
    label = torch.where(torch.rand(4000, generator=generator) < 0.25, -label, label)
    rate, noise = FlipRate(4000), LabelNoise(forward_rate="learn")
    for _ in range(600):
        rate.follow(rate.slope(noise.loss(*sides(label * m), rate.logit).mean()))
    assert rate.rate == pytest.approx(0.25, abs=0.025)  # standard error 0.012


def test_a_rate_stays_below_one_half_and_continues_to_the_same_bits():
    rate, noise = FlipRate(1000), LabelNoise(forward_rate="learn")
    for _ in range(2000):
        rate.follow(rate.slope(noise.loss(*sides(torch.tensor([-9.0])), rate.logit).mean()))
    assert rate.rate == pytest.approx(0.49)
    other = FlipRate(1000)
    other.load_state_dict(rate.state_dict())
    assert torch.equal(other.logit, rate.logit)


def test_a_rate_may_move_before_its_loss_is_learnt_from():
    rate, m = FlipRate(10), M.clone().requires_grad_()
    loss = LabelNoise(forward_rate="learn").loss(*sides(m), rate.logit).mean()
    rate.follow(rate.slope(loss))
    loss.backward()
    assert m.grad.isfinite().all()


@pytest.mark.parametrize("settings, word", [
    ({"forward_rate": 0.1, "flip_rate": 0.1}, "flip_rate and forward_rate model the same label noise"),
    ({"forward_rate": 0.5}, "forward_rate must be"), ({"forward_rate": "learn", "label_smoothing": 0.1}, "one of them"),
])
def test_impossible_settings_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        RewardModelLoss(**settings)
