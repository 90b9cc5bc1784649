"""All pairs of a group that differ: numbers worked out by hand, for answers and for images."""

import math

import pytest
import torch

from visalign.objectives import REGISTRIES
from visalign.objectives.language import TokenLogs
from visalign.objectives.online import StepTerms
from visalign.objectives.pairs_in_group import AnswerTerms, PairsInGroup, levels_of


def answers(q, level, group=None, learnt=False) -> AnswerTerms:
    q = torch.tensor(q, requires_grad=learnt)
    zero = torch.zeros_like(q)
    return AnswerTerms(zero, q, zero, zero, torch.tensor(group or [0] * len(level)), torch.tensor(level))


def steps(q, advantage, group=None) -> StepTerms:
    q, zero = torch.tensor(q), torch.zeros(len(q), 1)
    return StepTerms(torch.tensor(advantage), q, q, zero, zero, None, torch.ones(len(q)), torch.ones(len(q)), q, zero,
                     torch.zeros_like(q), zero, zero, torch.tensor(group or [0] * len(advantage)))


def loss(z):
    return math.log(1 + math.exp(-z))


def test_a_pair_whose_better_answer_is_best():
    # rho 1 over 4 tokens and -1 over 8: q 0.25, -0.125; h = 2.5 * 0.1 * 0.375 = 0.09375: 0.647370
    assert PairsInGroup()(answers([0.25, -0.125], [1, 2])).loss.item() == pytest.approx(0.647370, abs=1e-6)
    # levels 2 and 3: h = 0.0375
    assert PairsInGroup()(answers([0.25, -0.125], [2, 3])).loss.item() == pytest.approx(0.674573, abs=1e-6)


def test_all_pairs_of_different_levels():
    # q 1, 2, 0, 3 with levels 1, 1, 2, 3: (1,3) (1,4) (2,3) (2,4) of level 1, scale 0.25, and (3,4), scale 0.1
    z = [0.25 * 1, 0.25 * -2, 0.25 * 2, 0.25 * -1, 0.1 * -3]
    outcome = PairsInGroup()(answers([1.0, 2.0, 0.0, 3.0], [1, 1, 2, 3]))
    assert outcome.loss.item() == pytest.approx(sum(map(loss, z)) / 5, abs=1e-6)
    # of each answer's pairs: 1 of 2, 1 of 2, 2 of 3, 0 of 3 are ordered rightly
    assert outcome.metrics["implicit_accuracy"].tolist() == pytest.approx([0.5, 0.5, 2 / 3, 0])


def test_groups_of_one_level():
    # level 1: up, -log s(q); others: down, -log s(-q)
    assert PairsInGroup()(answers([0.4, -0.2], [1, 1])).loss.item() == pytest.approx((loss(0.4) + loss(-0.2)) / 2)
    assert PairsInGroup()(answers([0.4, -0.2], [3, 3])).loss.item() == pytest.approx((loss(-0.4) + loss(0.2)) / 2)


def test_groups_count_the_same_however_many_pairs_they_have():
    both = PairsInGroup()(answers([0.4, 1.0, -0.2, 0.0, 0.0, 0.0], [1, 2, 1, 2, 2, 1], [5, 7, 5, 7, 7, 7]))
    first = PairsInGroup()(answers([0.4, -0.2], [1, 1])).loss
    second = PairsInGroup()(answers([1.0, 0.0, 0.0, 0.0], [2, 2, 2, 1])).loss
    assert both.loss.item() == pytest.approx((first + second).item() / 2, abs=1e-6)
    assert both.metrics["implicit_accuracy"].tolist() == pytest.approx([0.5, 0, 0.5, 0, 0, 0])


def test_images_are_compared_by_their_advantages():
    # advantages 1, 0, -1: three pairs, none a best one: 0.1 times 1, 3, 2
    outcome = PairsInGroup(kl=0.0)(steps([2.0, 1.0, -1.0], [1.0, 0.0, -1.0]))
    assert outcome.loss.item() == pytest.approx((loss(0.1) + loss(0.3) + loss(0.2)) / 3, abs=1e-6)
    levels = PairsInGroup(kl=0.0)(answers([2.0, 1.0, -1.0], [2, 3, 4]))
    assert levels.loss.item() == pytest.approx(outcome.loss.item(), abs=1e-7)
    tied = PairsInGroup(kl=0.0)(steps([2.0, 1.0], [0.0, 0.0]))
    assert tied.loss.item() == pytest.approx(math.log(2))


def test_terms_from_tokens():
    # ratios 1, 0 over two tokens and -1 over one: means 0.5, -1; KL e^{-1} - 1 + 1 and 0: 0.18394; e - 1 - 1 = 0.718282
    side = TokenLogs(log_probs=torch.tensor([[-1.0, -2.0], [-3.0, float("nan")]]),
                     ref_log_probs=torch.tensor([[-2.0, -2.0], [-2.0, 0.0]]),
                     mask=torch.tensor([[True, True], [True, False]]))
    terms = AnswerTerms.of_side(side, torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.tensor([1, 2]))
    assert (terms.log_prob - terms.ref_log_prob).tolist() == [0.5, -1]
    assert terms.kl.tolist() == pytest.approx([math.exp(-1) / 2, math.e - 2])
    plain, held = (PairsInGroup(kl=kl)(terms).loss.item() for kl in (0.0, 1.0))
    assert held - plain == pytest.approx((math.exp(-1) / 2 + math.e - 2) / 2, abs=1e-6)


def test_one_class_for_both_worlds():
    assert REGISTRIES["online"]["pairs_in_group"] is REGISTRIES["language_online"]["pairs_in_group"] is PairsInGroup
    method = PairsInGroup()
    assert method.unit_size(4) == 4 and method.least_group == 2
    advantages = torch.tensor([1.0, -1.0, 0.0, 0.0, 1.0, float("nan")])
    assert method.select(advantages, advantages != 0, torch.tensor([0, 0, 1, 1, 2, 2])) == [(0, 1)]
    with pytest.raises(ValueError, match="best_of"):
        PairsInGroup(best_of=2)


def test_levels_go_by_what_an_answer_reaches_before_it_first_fails():
    # well-formed, right: both 1; well-formed alone 2; right but ill-formed, and neither, 3; unknown 0
    rewards = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, math.nan]])
    assert levels_of(rewards, torch.tensor([1.0, 0.7])).tolist() == [1, 2, 3, 3, 0]
    assert levels_of(torch.tensor([[0.7]]), torch.tensor([0.7])).tolist() == [1]  # in the rewards' own precision
