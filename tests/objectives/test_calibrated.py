"""CaPO's link, and a beta that grows with the strength: numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from visalign.objectives import REGISTRIES, PairErrors
from visalign.objectives.dpo import DiffusionDPO, FlowDPO
from visalign.objectives.inpo import FlowInPO, InPO
from visalign.objectives.language_pairs import LanguageDPO
from visalign.processes import Diffusion, Flow

BOTH = pytest.mark.parametrize("method", [DiffusionDPO, FlowDPO])


def errors(chosen=1.0, rejected=1.2, strength=1.0, rates=None, **more):
    """E_w 1.0 and E_l 1.2, both references 1.1: h = -(1/2)(-0.2) = 0.1."""
    values = (chosen, 0.5, strength, rejected, 1.1, 1.1)
    given = PairErrors(*(torch.tensor([v], requires_grad=v is chosen) for v in values))
    if rates:
        more |= {"chosen_reward": torch.tensor([rates[0]]), "rejected_reward": torch.tensor([rates[1]])}
    return replace(given, **{k: torch.tensor([v]) if isinstance(v, float) else v for k, v in more.items()})


RATES = (0.916686, 0.158184)
"""Of rewards 3 and 0 beside a 1: dRc = .758502."""


@BOTH
def test_calibrated_by_hand(method):
    # beta 2: z = 0.2, (.758502 - .2)^2 = .311924
    outcome = method(beta=2, link="calibrated")(errors(rates=RATES))
    assert outcome.loss.item() == pytest.approx(0.311924, abs=1e-5)
    assert outcome.metrics["margin"].item() == pytest.approx(0.2, abs=1e-6)


@BOTH
def test_with_one_gap_for_all_it_is_ipo_times_beta_squared(method):
    # (c - beta h)^2 = beta^2 (h - 1 / (2 tau))^2, tau = beta / (2 c)
    for gap, beta in ((1.0, 5.0), (0.4, 20.0)):
        pair = errors(rates=(gap, 0.0))
        mine = method(beta=beta, link="calibrated")(pair).loss
        theirs = beta**2 * method(beta=beta, link="ipo", ipo_tau=beta / (2 * gap))(pair).loss
        assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
        slopes = [torch.autograd.grad(loss, pair.chosen, retain_graph=True)[0].item() for loss in (mine, theirs)]
        assert slopes[0] == pytest.approx(slopes[1], rel=1e-5)


@BOTH
def test_the_loss_is_0_where_the_implicit_rewards_differ_by_the_gap(method):
    assert method(beta=10, link="calibrated")(errors(rates=(1.0, 0.0))).loss.item() == pytest.approx(0, abs=1e-10)


def test_a_doubted_label_aims_at_a_smaller_gap():
    # p 0.8: 0.8 (g - z)^2 + 0.2 (g + z)^2 = (z - 0.6 g)^2 + g^2 (1 - 0.36)
    loss = FlowDPO(beta=2, link="calibrated")(errors(rates=RATES, chance=0.8)).loss.item()
    assert loss == pytest.approx((0.2 - 0.6 * 0.758502) ** 2 + 0.758502**2 * 0.64, abs=1e-5)


@pytest.mark.parametrize("t, bias, weight", [(0.5, 0.0, 0.5), (0.9, 0.0, 81 / 82), (0.1, 0.0, 1 / 82),
                                             (0.5, 1.0, 0.731059)])
def test_the_weight_of_a_time(t, bias, weight):
    # log SNR = 2 log((1 - t) / t), so that s(-log SNR) = t^2 / (t^2 + (1 - t)^2)
    pair = errors(rates=RATES, log_snr=Flow().log_snr(torch.tensor([t])))
    plain = FlowDPO(beta=2, link="calibrated")(pair).loss.item()
    weighed = FlowDPO(beta=2, link="calibrated", snr_bias=bias)(pair).loss.item()
    assert weighed == pytest.approx(weight * plain, rel=1e-5)


def test_without_a_bias_a_diffusion_models_weight_is_the_variance_of_its_noise():
    process, t = Diffusion(torch.tensor([0.99, 0.64, 0.2, 0.0])), torch.arange(4)
    pair = errors(log_snr=process.log_snr(t))
    assert FlowDPO(link="calibrated", snr_bias=0.0).snr_weight(pair).tolist() == pytest.approx(
        [0.01, 0.36, 0.8, 1.0], abs=1e-6)


def test_it_needs_rewards_as_they_are_and_the_ratio_where_that_weighs():
    method = DiffusionDPO(link="calibrated")
    assert method.needs == {"rejected", "reference", "rewards"} and method.standardise == "win_rates"
    assert DiffusionDPO().needs == {"rejected", "reference"} and DiffusionDPO().standardise == "dataset"
    assert FlowInPO(link="calibrated").standardise == "win_rates"
    with pytest.raises(ValueError, match="carry no reward for link calibrated"):
        method(errors())
    with pytest.raises(ValueError, match="log_snr"):
        DiffusionDPO(link="calibrated", snr_bias=0.0)(errors(rates=RATES))


@pytest.mark.parametrize("settings, said", [
    ({"margin": 0.1}, "margin says how far"), ({"margin_of": {"reward": 0.1}}, "margin_of says how far"),
    ({"soft_labels": 1.0}, "soft_labels says how far"), ({"strength_beta": 0.5}, "strength_beta says how far"),
    ({"label_smoothing": 0.1}, "need link 'sigmoid'"), ({"snr_bias": 1e7}, "snr_bias must be")])
def test_options_that_the_link_does_not_take_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        FlowDPO(link="calibrated", **settings)


def test_what_belongs_to_the_link_alone_is_refused_elsewhere():
    with pytest.raises(ValueError, match="snr_bias weighs the loss of link 'calibrated', got link 'sigmoid'"):
        DiffusionDPO(snr_bias=0.0)
    with pytest.raises(ValueError, match="smooth turns rewards"):
        InPO(smooth="reward", link="calibrated")


@pytest.mark.parametrize("name", [name for name, kind in REGISTRIES["language"].items()
                                  if "link" in kind.__dataclass_fields__ and name != "sppo"])
def test_answers_carry_no_win_rates(name):
    with pytest.raises(ValueError, match="link calibrated needs the win rates of both samples, which pairs of answers"):
        REGISTRIES["language"][name](link="calibrated")


@BOTH
def test_beta_grows_with_the_strength(method):
    # w .5, k .5, strength 2, beta .1: .1 (1 + .5 (1 - 1/e)) = .131606; here of z = beta h, with h 0.1
    grown = method(beta=0.1, strength_beta=0.5, strength_beta_rate=0.5)(errors(strength=2.0))
    assert grown.loss.item() == pytest.approx(math.log1p(math.exp(-0.0131606)), abs=1e-6)
    assert torch.equal(grown.loss, method(beta=0.1316060279)(errors(strength=2.0)).loss)
    assert grown.metrics["margin"].item() == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize("strength", [0.0, -3.0])
def test_without_strength_beta_is_beta(strength):
    plain, grown = (FlowDPO(beta=2000, strength_beta=w)(errors(strength=strength)) for w in (0.0, 0.5))
    assert torch.equal(plain.loss, grown.loss)


def test_a_very_clear_pair_has_1_plus_w_times_beta():
    grown = FlowDPO(beta=10, strength_beta=0.5)(errors(strength=1e4)).loss
    assert grown.item() == pytest.approx(FlowDPO(beta=15)(errors()).loss.item(), abs=1e-6)


def test_the_margin_is_not_scaled_with_it():
    # strength 10, k 50: z = 10 * 0.1 * 1.5 = 1.5, less 0.1 * 10 = 0.5
    loss = FlowDPO(beta=10, strength_beta=0.5, strength_beta_rate=50, margin=0.1)(errors(strength=10.0)).loss
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5)), abs=1e-6)


@pytest.mark.parametrize("method", [LanguageDPO, FlowDPO])
@pytest.mark.parametrize("settings, said", [
    ({"strength_beta": 0.5, "link": "ipo"}, "strength_beta scales z, which link 'ipo' does not see"),
    ({"strength_beta": -0.1}, "strength_beta must be"), ({"strength_beta_rate": 0.0}, "strength_beta_rate must be")])
def test_impossible_growth_is_refused(method, settings, said):
    with pytest.raises(ValueError, match=said):
        method(**settings)


def test_a_regression_has_no_beta_to_grow():
    with pytest.raises(ValueError, match="margin_of and strength_beta are of losses on a difference"):
        REGISTRIES["language"]["sppo"](strength_beta=0.5)


def test_secrets_ii_by_hand():
    # margins (1, 2, -.5, .5): mu .75; z 1.5: -log s(1.5 - .75) = .386871; smoothed by .1: .351413
    method = FlowDPO(beta=15, margin=1.0)
    assert method(errors(strength=0.75)).loss.item() == pytest.approx(0.386871, abs=1e-5)
    assert FlowDPO(beta=15)(errors(chance=0.9)).loss.item() == pytest.approx(0.351413, abs=1e-5)
    assert FlowDPO(beta=15)(errors(chance=0.9)).loss.item() == pytest.approx(
        FlowDPO(beta=15, label_smoothing=0.1)(errors()).loss.item(), abs=1e-6)
