"""Reward-model losses against numbers worked out by hand."""

import math
from dataclasses import dataclass

import pytest
import torch

from visalign.objectives.reward_model import Comparison, RewardModelLoss, bootstrap, masked_mean

NAN = float("nan")


def loss(m, outcome, strength=1.0, **settings):
    value = RewardModelLoss(**settings).pair_loss(
        torch.tensor([[[m]]]), torch.tensor([[[outcome]]]), torch.tensor([[[strength]]])
    )
    return value.item()


@pytest.mark.parametrize("m, expected", [(0.0, 0.693147), (2.0, 0.126928)])
def test_bradley_terry_hand_numbers(m, expected):
    assert loss(m, 1.0) == pytest.approx(expected, abs=1e-6)
    assert loss(-m, 0.0) == pytest.approx(expected, abs=1e-6)  # the same pair written the other way round


def test_rao_kupper_probabilities_at_zero_are_one_sixth_two_thirds_one_sixth():
    win, tie, lose = (math.exp(-loss(0.0, outcome, ties="rao_kupper", k=5.0)) for outcome in (1.0, 0.5, 0.0))
    assert (win, tie, lose) == pytest.approx((1 / 6, 2 / 3, 1 / 6), abs=1e-6)


@pytest.mark.parametrize("settings", [{"ties": "rao_kupper", "k": 3.0}, {"ties": "davidson", "nu": 0.7}])
@pytest.mark.parametrize("m", [-3.0, -0.4, 0.0, 1.3])
def test_win_tie_and_loss_probabilities_add_to_one(settings, m):
    assert sum(math.exp(-loss(m, outcome, **settings)) for outcome in (1.0, 0.5, 0.0)) == pytest.approx(1, abs=1e-5)


def test_rao_kupper_agrees_with_its_definition():
    r_w, r_l, k = 0.8, -0.3, 5.0  # P(w) = e^rw / (e^rw + k e^rl)
    expected = math.exp(r_w) / (math.exp(r_w) + k * math.exp(r_l))
    assert math.exp(-loss(r_w - r_l, 1.0, ties="rao_kupper", k=k)) == pytest.approx(expected, rel=1e-5)


def test_davidson_tie_is_nu_times_the_geometric_mean():
    # m = 0, nu = 1: three equal masses
    assert math.exp(-loss(0.0, 0.5, ties="davidson", nu=1.0)) == pytest.approx(1 / 3, abs=1e-6)


def test_win_tie_of_a_tie_is_twice_log_two_at_zero_and_least_there():
    assert loss(0.0, 0.5, ties="win_tie") == pytest.approx(1.386294, abs=1e-6)
    assert loss(0.3, 0.5, ties="win_tie") > loss(0.0, 0.5, ties="win_tie") < loss(-0.3, 0.5, ties="win_tie")


@pytest.mark.parametrize("m, expected", [(0.0, 0.693147), (1.0, 0.813262), (-1.0, 0.813262)])
def test_a_soft_tie_is_the_label_one_half_whatever_the_margin(m, expected):
    """m = 1: (log(1 + e^-1) + log(1 + e)) / 2 = (0.313262 + 1.313262) / 2; half of win-tie's at margin 0."""
    assert loss(m, 0.5, ties="soft", margin=0.7) == pytest.approx(expected, abs=1e-6)
    assert loss(m, 0.5, ties="win_tie", tie_weight=0.5) == pytest.approx(expected, abs=1e-6)
    assert loss(m, 0.5, ties="soft", tie_weight=3.0) == pytest.approx(3 * expected, abs=1e-5)


def test_the_weight_of_ties_leaves_decided_pairs_alone_and_needs_ties():
    assert loss(2.0, 1.0, ties="soft", tie_weight=3.0) == pytest.approx(0.126928, abs=1e-6)
    assert loss(0.0, 0.5, ties="davidson", tie_weight=2.0) == pytest.approx(2 * math.log(3), abs=1e-5)
    with pytest.raises(ValueError, match="tie_weight 2 weighs tied pairs, which ties drop leaves out"):
        RewardModelLoss(tie_weight=2.0)


def test_margin_grows_with_strength_and_scaling_multiplies():
    assert loss(2.0, 1.0, strength=2.0, margin=0.5) == pytest.approx(-math.log(1 / (1 + math.exp(-1))), abs=1e-6)
    assert loss(2.0, 1.0, strength=3.0, scaled=True) == pytest.approx(3 * 0.126928, abs=1e-5)


def test_label_smoothing_mixes_and_rdpo_is_unbiased():
    agree, disagree = loss(2.0, 1.0), loss(2.0, 0.0)
    assert loss(2.0, 1.0, label_smoothing=0.1) == pytest.approx(0.9 * agree + 0.1 * disagree, abs=1e-6)
    robust = [loss(2.0, outcome, flip_rate=0.2) for outcome in (1.0, 0.0)]
    assert 0.8 * robust[0] + 0.2 * robust[1] == pytest.approx(agree, abs=1e-5)  # mean over flips = clean loss


def test_dropped_ties_and_missing_labels_are_masked():
    assert math.isnan(loss(1.0, 0.5)) and math.isnan(loss(1.0, NAN, ties="davidson"))
    values = torch.tensor([[[1.0, NAN]], [[3.0, NAN]], [[NAN, NAN]]])
    assert masked_mean(values, torch.ones(3, 1)).item() == pytest.approx(2.0)  # the unlabelled dimension is no zero
    assert masked_mean(torch.full((2, 1, 1), NAN), torch.ones(2, 1)).item() == 0.0


def batch(a, b, outcome, rating_a=None, rating_b=None):
    a, b, outcome = torch.tensor(a), torch.tensor(b), torch.tensor(outcome)
    nothing = torch.full_like(outcome, NAN)
    return Comparison(
        a[:, None],
        b[:, None],
        outcome,
        torch.ones(len(a)),
        nothing if rating_a is None else torch.tensor(rating_a),
        nothing if rating_b is None else torch.tensor(rating_b),
    )


def test_each_label_is_smoothed_by_its_own_doubt():
    """m = 1.5: -log s(1.5) = .201413, and with a doubt of .1 it is .9 * .201413 + .1 * 1.701413 = .351413."""
    pairs = batch([[1.5], [1.5]], [[0.0], [0.0]], [[1.0], [1.0]])
    made = RewardModelLoss()(pairs._replace(doubt=torch.tensor([0.1, 0.0])))
    assert made.loss.item() == pytest.approx((0.351413 + 0.201413) / 2, abs=1e-6)
    smoothed = RewardModelLoss(label_smoothing=0.1)(pairs).loss
    assert RewardModelLoss()(pairs._replace(doubt=torch.full((2,), 0.1))).loss.item() == pytest.approx(smoothed.item())


def test_regression_is_the_mean_squared_error_of_both_sides():
    objective = RewardModelLoss(preference_weight=0.0, rating_weight=1.0)
    made = objective(batch([[1.0]], [[4.0]], [[NAN]], [[2.0]], [[2.0]]))
    assert made.loss.item() == pytest.approx((1 + 4) / 2)


def test_binary_labels_give_cross_entropy_and_add_to_the_preference():
    objective = RewardModelLoss(rating_weight=1.0, rating_loss="bce")
    made = objective(batch([[0.0]], [[0.0]], [[1.0]], [[1.0]], [[0.0]]))
    assert made.loss.item() == pytest.approx(0.693147 + 0.693147, abs=1e-5)


def test_gradients_flow_past_masked_elements():
    a = torch.zeros(2, 1, 2, requires_grad=True)
    comparison = Comparison(
        a,
        torch.zeros(2, 1, 2),
        torch.tensor([[1.0, NAN], [0.5, NAN]]),
        torch.ones(2),
        torch.full((2, 2), NAN),
        torch.full((2, 2), NAN),
    )
    RewardModelLoss(ties="rao_kupper", rating_weight=1.0)(comparison).loss.backward()
    assert a.grad.isfinite().all() and a.grad[0, 0, 0] < 0 and (a.grad[..., 1] == 0).all()


def test_each_member_sees_its_own_bootstrap():
    a = torch.zeros(2, 2, 1, requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    RewardModelLoss()(
        Comparison(
            a,
            torch.zeros(2, 2, 1),
            torch.ones(2, 1),
            torch.ones(2),
            torch.full((2, 1), NAN),
            torch.full((2, 1), NAN),
            (bootstrap(weight),),
        )
    ).loss.backward()
    assert (a.grad[..., 0] != 0).tolist() == [[True, False], [False, True]]


def comparison(**changes):
    a, b = torch.randn(2, 5, 3, 2, generator=torch.Generator().manual_seed(1))
    outcome = torch.tensor([[1.0, 0.0], [0.5, NAN], [0.0, 1.0], [1.0, 1.0], [NAN, 0.0]])
    nothing = torch.full_like(outcome, NAN)
    return Comparison(a, b, outcome, torch.ones(5), nothing, nothing)._replace(**changes)


def test_filters_see_every_member_s_losses_and_multiply_the_weights():
    seen = []

    def easiest(losses):
        seen.append(losses)
        return (losses.nan_to_num(9.0).sum(2) < 2).float()

    objective, counts = RewardModelLoss(), torch.tensor([[0.0, 1.0, 2.0]] * 5)
    both = objective(comparison(filters=(bootstrap(counts), easiest))).loss
    assert seen[0].shape == (5, 3, 2) and not seen[0].requires_grad
    assert both == objective(comparison(filters=(lambda losses: counts * easiest(losses),))).loss


def test_no_filter_is_today_s_loss_to_the_bit():
    objective = RewardModelLoss(ties="rao_kupper")
    batch = comparison()
    outcome = batch.outcome[:, None].expand_as(batch.a)
    losses = objective.pair_loss(batch.a - batch.b, outcome, torch.ones_like(batch.a))
    assert torch.equal(objective(batch).loss, masked_mean(losses, torch.ones(5, 3)))
    assert torch.equal(objective(batch).loss, objective(comparison(filters=(bootstrap(torch.ones(5, 3)),))).loss)


def test_a_method_may_bring_its_own_filter():
    @dataclass(frozen=True)
    class FirstMemberOnly(RewardModelLoss):
        filters = (lambda losses: torch.tensor([1.0, 0.0, 0.0]).expand(losses.shape[:2]),)

    a = comparison().a.requires_grad_()
    FirstMemberOnly()(comparison(a=a)).loss.backward()
    assert a.grad[:, 0].abs().sum() > 0 and (a.grad[:, 1:] == 0).all()


def test_margin_by_strength_and_smoothing_at_their_worked_out_numbers():
    strength = torch.tensor([0.75])  # mean margin of the members 1, 2, -0.5, 0.5
    value = RewardModelLoss(margin=1.0).pair_loss(torch.tensor([1.5]), torch.tensor([1.0]), strength)
    assert value.item() == pytest.approx(0.386871, abs=1e-6)
    assert loss(1.5, 1.0, label_smoothing=0.1) == pytest.approx(0.351413, abs=1e-6)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"k": 1.0}, "k must"),
        ({"nu": 0.0}, "nu must"),
        ({"margin": -1.0}, "margin"),
        ({"preference_weight": 0.0}, "nothing to learn"),
        ({"label_smoothing": 0.1, "flip_rate": 0.1}, "same label noise"),
    ],
)
def test_impossible_settings_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        RewardModelLoss(**settings)


def test_the_hinge_of_pal_by_hand():
    loss = RewardModelLoss(shape="hinge")
    m, one = torch.tensor([0.618034, 1.5, -2.0, -2.0]), torch.ones(4)
    outcome = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert loss.pair_loss(m, outcome, one).tolist() == pytest.approx([0.381966, 0.0, 3.0, 0.0])
    with_margin = RewardModelLoss(shape="hinge", margin=1.0)
    assert with_margin.pair_loss(m[1:2], one[:1], one[:1]).item() == pytest.approx(0.5)


@pytest.mark.parametrize("settings, word", [({"ties": "davidson"}, "ties davidson"), ({"flip_rate": 0.1}, "flip_rate"),
                                            ({"forward_rate": "learn"}, "forward_rate")])
def test_a_hinge_knows_no_likelihood(settings, word):
    with pytest.raises(ValueError, match=f"shape hinge says nothing of how likely a label is, and {word}"):
        RewardModelLoss(shape="hinge", **settings)


def test_the_terms_of_mm_rlhf_by_hand():
    """Rewards 2 and 0.5, the first preferred, and a tie of 1 and 0.4: BT of the one, 0.01 (2.5)^2, and 0.36."""
    a, b = torch.tensor([2.0, 1.0])[:, None, None], torch.tensor([0.5, 0.4])[:, None, None]
    outcome, one, gap = torch.tensor([[1.0], [0.5]]), torch.ones(2), torch.full((2, 1), float("nan"))
    found = RewardModelLoss(ties="square", centre=0.01)(Comparison(a, b, outcome, one, gap, gap)).loss.item()
    assert found == pytest.approx((0.201413 + 0.36) / 2 + 0.0625, abs=1e-5)
