"""SePPO's loss by hand, and that it is Diffusion-DPO where nothing is turned."""

import math
from dataclasses import replace

import pytest
import torch

from visalign.objectives import PairErrors
from visalign.objectives.dpo import DiffusionDPO, FlowDPO
from visalign.objectives.seppo import SePPO


def errors(*values, **more):
    """chosen, rejected, ref_chosen, ref_rejected of one pair."""
    one = torch.ones(1)
    return PairErrors(torch.tensor([values[0]]), one / 2, one, *(torch.tensor([value]) for value in values[1:]),
                      **{name: torch.tensor([value]) for name, value in more.items()})


def randomly(count=64):
    torch.manual_seed(0)
    draws = [torch.rand(count, requires_grad=place < 2) for place in range(4)]
    return PairErrors(draws[0], torch.rand(count), torch.ones(count), *draws[1:])


def test_the_loss_by_hand():
    # inside = -5 [(1 - 1.1) - c (1.2 - 1.1)]: c = +1 -> 1, c = -1 -> 0, c = 0 -> .5
    ahead = errors(1.0, 1.2, 1.1, 1.1)
    behind = errors(1.0, 1.2, 1.1, 1.1, anchor=2.0, ref_anchor=1.0)  # a second draw turns the criterion
    for flip, given, inside, loss in (("sign", ahead, 1.0, 0.313262), ("indicator", ahead, 1.0, 0.313262),
                                      ("sign", behind, 0.0, 0.693147), ("indicator", behind, 0.5, 0.474077)):
        outcome = SePPO(beta=10, flip=flip, anchors=1 + (given is behind))(given)
        assert outcome.loss.item() == pytest.approx(loss, abs=1e-6)
        assert outcome.metrics["margin"].item() == pytest.approx(inside, abs=1e-6)
        assert outcome.metrics["reference_ahead"].item() == (given is behind)


def test_the_criterion_is_on_the_good_sample_and_a_tie_is_the_policys():
    method = SePPO(beta=10)
    for chosen, factor in ((1.0, 1), (1.1, 1), (1.1000001, -1)):
        lead = method.lead(errors(chosen, 9.0, 1.1, 0.0))
        assert method.factor(lead).item() == factor
    tie = errors(1.0, 1.2, 1.0, 1.2)  # as a run starts
    assert method(tie).loss.item() == pytest.approx(math.log(2)) and method.factor(method.lead(tie)).item() == 1


@pytest.mark.parametrize("dpo", [DiffusionDPO, FlowDPO])
def test_without_the_criterion_it_is_dpo_to_the_bit(dpo):
    given = randomly()
    assert 0.2 < (given.ref_chosen < given.chosen).float().mean() < 0.8
    learnt = (given.chosen, given.rejected)
    mine, theirs = SePPO(beta=30, flip="none")(given), dpo(beta=30)(given)
    assert torch.equal(mine.loss, theirs.loss)
    for one, other in zip(torch.autograd.grad(mine.loss, learnt), torch.autograd.grad(theirs.loss, learnt),
                          strict=True):
        assert torch.equal(one, other)
    for name in ("margin", "implicit_accuracy", "reward_chosen", "reward_rejected"):
        assert torch.equal(mine.metrics[name], theirs.metrics[name]), name
    assert not torch.equal(SePPO(beta=30)(given).loss, theirs.loss)


@pytest.mark.parametrize("flip, sign_of_rejected", [("sign", 1), ("indicator", 0), ("none", -1)])
def test_what_the_loss_pulls_at_where_the_reference_is_ahead(flip, sign_of_rejected):
    """Down a gradient: a positive one lowers that error. c itself has none, and belongs to each sample."""
    given = randomly()
    gradients = torch.autograd.grad(SePPO(beta=30, flip=flip)(given).loss, (given.chosen, given.rejected),
                                    allow_unused=True)
    behind = given.ref_chosen < given.chosen
    assert (gradients[0] > 0).all()
    assert (gradients[1][behind].sign() == sign_of_rejected).all() and (gradients[1][~behind] < 0).all()
    # both sides of a sample weigh the same, beta/2 s(-inside) / B
    inside = SePPO(beta=30, flip=flip)(given).metrics["margin"]
    torch.testing.assert_close(gradients[0], 15 * torch.sigmoid(-inside) / len(behind))
    if sign_of_rejected:
        torch.testing.assert_close(gradients[0], gradients[1].abs())


def test_anchors_are_summed_with_the_draw_that_is_learnt():
    method = SePPO(anchors=3)
    given = errors(1.0, 1.2, 1.1, 1.1, anchor=2.0, ref_anchor=1.95)  # .1 ahead here, .05 behind in two others
    assert method.lead(given).item() == pytest.approx(0.05, abs=1e-6)
    assert method(given).metrics["reference_ahead"].item() == 0
    assert method(replace(given, ref_anchor=torch.tensor([1.85]))).metrics["reference_ahead"].item() == 1


def test_what_it_needs_and_costs():
    method = SePPO()
    assert method.needs == {"reference", "own"} and method.sides == ("chosen", "rejected")
    assert method.passes == (1, 1) and SePPO(anchors=4).passes == (1, 4)
    assert method.states == "own_reference" and method.process == "any" and not method.guided


@pytest.mark.parametrize("settings, named", [
    ({"beta": 0}, "beta must be greater than 0"), ({"anchors": 0}, "anchors must be at least 1"),
    ({"flip": "none", "anchors": 2}, "anchors 2 tell what flip 'none' does not ask")])
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        SePPO(**settings)
