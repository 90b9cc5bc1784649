"""Losses on pairs of answers and on single answers: numbers worked out by hand on the pair of pair_t.py."""

import math

import pytest
import torch

from tests.objectives.pair_t import logs, tensor
from visalign.objectives.language import PairLogs, TokenLogs
from visalign.objectives.language_pairs import CPL, SPPO, LanguageDPO, LanguageSFT, SimPO, missed_in


def test_the_pair_of_all_numbers():
    pair = logs()
    assert (pair.rho_chosen.item(), pair.rho_rejected.item(), pair.h.item()) == (1, -1, 2)
    assert (pair.chosen_per_token.item(), pair.rejected_per_token.item()) == (-3, -1.25)
    assert pair.h_per_token.item() == pytest.approx(1 / 4 + 1 / 8)


def test_metrics_have_the_names_of_images():
    metrics = LanguageDPO()(logs()).metrics
    assert {name: values.item() for name, values in metrics.items()} == pytest.approx(
        {"implicit_accuracy": 1, "margin": 0.2, "reward_chosen": 0.1, "reward_rejected": -0.1, "log_prob_chosen": -12,
         "log_prob_rejected": -10, "ranked": 0, "displaced": 0})
    assert not any(values.requires_grad for values in metrics.values())
    assert LanguageDPO()(logs(chosen=-13.5)).metrics["displaced"].item() == 1


def test_ipo_per_token():
    # (1/4 + 1/8 - 5)^2 = 4.625^2
    assert LanguageDPO(link="ipo", ipo_per="token")(logs()).loss.item() == pytest.approx(21.390625, abs=1e-5)


@pytest.mark.parametrize("per, weight, loss", [("token", 1.0, 3.598139), ("answer", 1.0, 3.598139),
                                               ("sum", 0.005, 0.658139)])
def test_rpo(per, weight, loss):
    # 0.598139 + 12 / 4 twice, and + 0.005 * 12
    assert LanguageDPO(sft_weight=weight, sft_per=per)(logs()).loss.item() == pytest.approx(loss, abs=1e-6)


def two(**more):
    """-12 over 4 tokens and -2 over 1."""
    return PairLogs(chosen=torch.tensor([-12.0, -2.0]), chosen_tokens=torch.tensor([4.0, 1.0]), **more)


def test_what_imitation_is_averaged_over():
    assert LanguageSFT()(two()).loss.item() == pytest.approx(14 / 5)  # of all tokens
    assert LanguageSFT(per="answer")(two()).loss.item() == pytest.approx((3 + 2) / 2)
    weighed = two(weight=torch.tensor([0.0, 1.0]))
    assert LanguageSFT()(weighed).loss.item() == pytest.approx(2 / 5)
    assert LanguageSFT(per="answer")(weighed).loss.item() == pytest.approx(1)


def test_rpos_gradient_never_vanishes():
    # -beta (1 - s(z)) - w / |y_w|: at z = 100 the first part is 0
    pair = logs(chosen=987.0)
    LanguageDPO(sft_weight=0.5)(pair).loss.backward()
    assert pair.chosen.grad.item() == pytest.approx(-0.5 / 4, abs=1e-6)


def test_without_an_sft_weight_it_is_dpo_to_the_bit():
    assert torch.equal(LanguageDPO()(logs()).loss, LanguageDPO(sft_weight=0.0, sft_per="sum")(logs()).loss)


def test_the_mean_of_rdpo_over_flips_is_dpo():
    e, noisy = 0.3, LanguageDPO(flip_rate=0.3)
    flipped = logs(-10.0, -12.0, -9.0, -13.0)
    mean = (1 - e) * noisy(logs()).loss + e * noisy(flipped).loss
    assert mean.item() == pytest.approx(0.598139, abs=1e-6)


def test_rdpo_has_no_lower_bound():
    # slope -e / (1 - 2e) for large z: at e = 0.1, z = 100 and 200: -12.5 and -25
    losses = [LanguageDPO(flip_rate=0.1)(logs(chosen=c)).loss.item() for c in (986.0, 1986.0)]
    assert losses == pytest.approx([-12.4875, -24.9875], abs=0.02)


def test_a_soft_label_is_least_at_its_log_odds():
    z = math.log(0.731059 / 0.268941)  # s(z) = p
    pair = logs(chosen=-12 + (z - 0.2) / 0.1)
    LanguageDPO(soft_labels=1.0)(pair).loss.backward()
    assert pair.chosen.grad.item() == pytest.approx(0, abs=1e-6)


def test_cream_takes_the_chance_from_a_column():
    # c = 0.75: 0.598139 + 0.25 * 0.2; below a half it counts as a half: (0.598139 + 0.798139) / 2
    method = LanguageDPO(confidence="consistency")
    assert method.columns == ("consistency",)
    sure, unsure = (method(logs(columns={"consistency": tensor(c)})) for c in (0.75, 0.2))
    assert sure.loss.item() == pytest.approx(0.648139, abs=1e-6) and sure.metrics["unsure"].item() == 0
    assert unsure.loss.item() == pytest.approx(0.698139, abs=1e-6) and unsure.metrics["unsure"].item() == 1


def test_modpo_takes_other_rewards_off_the_margin():
    # (0.2 - 0.2 * 0.5) / 0.8 = 0.125: -log s = 0.632599
    method = LanguageDPO(margin_of={"relevance": 0.2})
    assert method.rewards == ("relevance",) and "rewards" in method.needs
    assert method(logs(gaps={"relevance": tensor(0.5)})).loss.item() == pytest.approx(0.632599, abs=1e-6)
    hinge = LanguageDPO(margin_of={"relevance": 0.2}, link="hinge")(logs(gaps={"relevance": tensor(0.5)}))
    assert hinge.loss.item() == pytest.approx(0.875)
    # two rewards: (0.2 - 0.2 * 0.5 + 0.3 * 0.4) / 0.5 = 0.44
    both = LanguageDPO(margin_of={"relevance": 0.2, "brevity": 0.3})(
        logs(gaps={"relevance": tensor(0.5), "brevity": tensor(-0.4)}))
    assert both.loss.item() == pytest.approx(math.log(1 + math.exp(-0.44)), abs=1e-6)
    assert "rewards" not in LanguageDPO().needs and LanguageDPO().rewards == ()


def test_vpo_with_chosen_answers_is_rpo_with_a_summed_term():
    # their losses differ by the constant w ref_w, their gradients do not
    value, imitation = logs(), logs()
    LanguageDPO(value="pessimistic", value_weight=0.5)(value).loss.backward()
    LanguageDPO(sft_weight=0.05, sft_per="sum")(imitation).loss.backward()
    assert value.chosen.grad.item() == pytest.approx(imitation.chosen.grad.item())


def test_simpo():
    # 2 (-3 + 1.25) - 0.5 = -4
    outcome = SimPO()(logs(ref_chosen=0, ref_rejected=0))
    assert outcome.loss.item() == pytest.approx(4.018150, abs=1e-6) and "reference" not in SimPO().needs
    bare = PairLogs(chosen=tensor(-12), rejected=tensor(-10), chosen_tokens=tensor(4), rejected_tokens=tensor(8))
    assert SimPO()(bare).loss.item() == outcome.loss.item() and "displaced" not in SimPO()(bare).metrics


def test_cpl():
    # e^{-1.2} against e^{-1.0}: log(1 + e^0.2); with lambda 0.5 against e^{-0.5}: log(1 + e^0.7)
    assert CPL()(logs()).loss.item() == pytest.approx(0.798139, abs=1e-6)
    assert CPL(bias=0.5)(logs()).loss.item() == pytest.approx(1.103186, abs=1e-6)


def test_sppo():
    # beta 0.1: (1 - 5)^2 + (-1 + 5)^2 = 32; at a chance of 0.6: (1 - 1)^2 + (-1 + 1)^2 = 0
    assert SPPO()(logs()).loss.item() == pytest.approx(32)
    assert SPPO()(logs(chance=tensor(0.6))).loss.item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="losses on a difference"):
        SPPO(link="hinge")


def test_slic_without_a_reference_is_cpl_with_a_hinge():
    # max(0, d - lp_w + lp_l) - w lp_w, d 1, w 0.1: 3 + 1.2
    slic = CPL(beta=1.0, link="hinge", sft_weight=0.1, sft_per="sum")
    assert slic(logs()).loss.item() == pytest.approx(4.2)


@pytest.mark.parametrize("settings", [{"link": "ipo"}, {"value": "optimistic", "value_weight": 0.1}])
def test_what_needs_a_reference_is_refused_without_one(settings):
    with pytest.raises(ValueError, match="take dpo"):
        SimPO(**settings)


def test_a_hit_within_n_tries():
    # p = 0.2, N = 8: -log(1 - 0.8^8) = -log 0.832228; factor 8 * 0.8^7 * 0.2 / 0.832228 = 0.403188
    lp = torch.tensor([math.log(0.2)], requires_grad=True)
    loss = missed_in(lp, 8)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.183649, abs=1e-6)
    assert lp.grad.item() == pytest.approx(-0.403188, abs=1e-6)


def test_a_hit_within_n_tries_at_both_ends():
    lp = torch.tensor([-500.0, -31.0, -29.0, -20.0, -1e-9, 0.0], requires_grad=True)
    loss = missed_in(lp, 8)
    loss.sum().backward()
    assert loss[:4].tolist() == pytest.approx([each - math.log(8) for each in (500, 31, 29, 20)], abs=1e-5)
    assert loss[4:].abs().max() < 1e-6 and lp.grad.tolist() == pytest.approx([-1, -1, -1, -1, 0, 0], abs=1e-5)


def test_one_try_is_the_likelihood():
    assert missed_in(torch.tensor([-3.0]), 1).item() == pytest.approx(3)
    assert LanguageSFT(pass_at=8)(two()).loss.item() == pytest.approx(
        missed_in(torch.tensor([-12.0, -2.0]), 8).mean().item())


def test_sums_of_tokens_ignore_what_pads_them():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    side = TokenLogs(log_probs=torch.tensor([[-1.0, -2.0, float("nan")], [-1.0, -1.0, -1.0]]), mask=mask,
                     ref_log_probs=torch.tensor([[-2.0, -2.0, -float("inf")], [-1.0, -1.0, -2.0]]))
    pair = PairLogs.of_sides(side, side, weight=2.0)
    assert pair.chosen.tolist() == [-3, -3] and pair.ref_rejected.tolist() == [-4, -4]
    assert pair.chosen_tokens.tolist() == [2, 3] and pair.weight == 2.0
    assert side.log_ratios.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert side.averaged(torch.tensor([[1.0, 3.0, 9.0], [1.0, 2.0, 3.0]])).tolist() == [2, 2]
    alone = PairLogs.of_sides(TokenLogs(log_probs=side.log_probs, mask=mask))
    assert alone.rejected is None and alone.ref_chosen is None and alone.chosen.tolist() == [-3, -3]


def test_an_empty_answer_is_finite():
    pair = logs(chosen=0.0, ref_chosen=0.0, chosen_tokens=tensor(0))
    outcome = LanguageDPO(sft_weight=1.0, sft_per="answer", link="ipo", ipo_per="token")(pair)
    assert outcome.loss.isfinite()


def test_the_anchor_holds_the_chosen_answer():
    # 0.598139 - 0.5 log s(0.1 * 1) = 0.598139 + 0.5 * 0.644397
    assert LanguageDPO(anchor_weight=0.5)(logs()).loss.item() == pytest.approx(0.920337, abs=1e-5)
