"""Methods that compare whole groups: DGPO against Diffusion-DPO, CRD's numbers, and that groups stay apart."""

import math

import pytest
import torch

from visalign.objectives.base import PairErrors
from visalign.objectives.dpo import DiffusionDPO
from visalign.objectives.group import CRD, DGPO
from visalign.objectives.online import NoisedTerms, mean_square

DOUBLE = {"dtype": torch.float64}


def random(n, seed):
    return torch.randn(n, 2, 3, 3, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def terms(prediction, advantage, group, old=None, ref=None):
    """Flow terms whose old policy and reference are the policy unless said."""
    n = len(prediction)
    x0, noise = random(n, 10), random(n, 11)
    t = torch.linspace(0.2, 0.9, n, **DOUBLE)
    same = prediction.detach()
    return NoisedTerms(advantage=torch.tensor(advantage, **DOUBLE), x0=x0, x_t=x0, noise_fraction=t,
                       target=noise - x0, prediction=prediction, old_prediction=same if old is None else old,
                       ref_prediction=same if ref is None else ref, x0_of=None, group=torch.tensor(group))


def with_errors(errors, advantage, group, old=None, ref=None):
    """Terms of one number a sample: target 0, predictions the roots of the errors."""
    def root(values):
        return None if values is None else torch.tensor(values, **DOUBLE).sqrt()[:, None]

    prediction = root(errors).requires_grad_(True)
    return NoisedTerms(advantage=torch.tensor(advantage, **DOUBLE), x0=None, x_t=None, noise_fraction=None,
                       target=torch.zeros_like(prediction), prediction=prediction,
                       old_prediction=prediction.detach() if old is None else root(old),
                       ref_prediction=prediction.detach() if ref is None else root(ref), x0_of=None,
                       group=torch.tensor(group))


def gradient(outcome, of):
    return torch.autograd.grad(outcome.loss, of, retain_graph=True)[0]


def test_dgpo_starts_at_weight_one_half_with_advantage_weighted_matching():
    advantage = [1.2, -0.2, -1.0, 0.5, -1.5, 1.0]
    one = terms(random(6, 1).requires_grad_(True), advantage, [4, 4, 4, 7, 7, 7])
    outcome = DGPO()(one)
    assert outcome.metrics["group_weight"].tolist() == [0.5] * 6
    matching = (0.5 * one.advantage * mean_square(one.prediction, one.target)).mean()
    torch.testing.assert_close(gradient(outcome, one.prediction), torch.autograd.grad(matching, one.prediction)[0])


def test_dgpo_of_two_samples_is_diffusion_dpo():
    """D = (-.1, .1), beta 10: S = (10 / 2)(-.1 - .1) = -1, W = s(-1) = .268941."""
    one = with_errors([0.4, 0.6], [1.0, -1.0], [0, 0], ref=[0.5, 0.5])
    outcome = DGPO(beta=10, beta_kl=0.0, clip=10)(one)
    assert outcome.metrics["group_weight"].tolist() == pytest.approx([0.268941] * 2, abs=1e-6)
    pair = mean_square(one.prediction, one.target)
    dpo = DiffusionDPO(beta=10)(PairErrors(
        chosen=pair[:1], rejected=pair[1:], ref_chosen=torch.tensor([0.5], **DOUBLE),
        ref_rejected=torch.tensor([0.5], **DOUBLE), noise_fraction=torch.tensor([0.5]), strength=torch.ones(1)))
    torch.testing.assert_close(10 * gradient(outcome, one.prediction), gradient(dpo, one.prediction))


def test_dgpo_is_the_gradient_of_the_group_s_log_sigmoid():
    advantage, beta = [1.5, -0.5, -1.0], 20.0
    one = terms(random(3, 1).requires_grad_(True), advantage, [0, 0, 0], ref=random(3, 2))
    outcome = DGPO(beta=beta, beta_kl=0.0)(one)
    d = mean_square(one.prediction, one.target) - mean_square(one.ref_prediction, one.target)
    whole = -torch.nn.functional.logsigmoid(-(beta / 3 * one.advantage * d).sum()) / beta
    torch.testing.assert_close(gradient(outcome, one.prediction), torch.autograd.grad(whole, one.prediction)[0])


def test_dgpo_learns_nothing_from_equal_rewards_and_less_from_a_group_that_is_won():
    still = with_errors([0.4, 0.6], [0.0, 0.0], [0, 0], ref=[0.5, 0.5])
    assert gradient(DGPO(beta_kl=0.0)(still), still.prediction).abs().max() == 0
    weights = [DGPO(beta_kl=0.0)(with_errors([0.5 - won, 0.5 + won], [1.0, -1.0], [0, 0], ref=[0.5, 0.5])).metrics[
        "group_weight"][0].item() for won in (-0.02, 0.0, 0.02)]
    assert weights[0] > weights[1] == 0.5 > weights[2]


@pytest.mark.parametrize("method", [DGPO(beta=30.0), CRD(), CRD(loss="bce"), CRD(temperature=0.2)])
def test_groups_of_a_micro_batch_do_not_see_each_other(method):
    """Two groups together give the mean of what each gives alone, in whatever order samples come."""
    advantage = [1.5, -0.5, -1.0, 0.3, 0.6, -0.9]
    predictions, ref, old = random(6, 1), random(6, 2), random(6, 1) + 0.02 * random(6, 3)

    def of(rows, group):
        whole = terms(predictions, advantage, list(range(6)), old, ref)
        parts = {name: getattr(whole, name)[rows] for name in ("advantage", "target", "old_prediction",
                                                              "ref_prediction")}
        moving = predictions[rows].clone().requires_grad_(True)
        one = NoisedTerms(x0=None, x_t=None, noise_fraction=None, prediction=moving, x0_of=None,
                          group=torch.tensor(group), **parts)
        return method(one), moving

    together, moving = of([0, 3, 1, 4, 2, 5], [8, 2, 8, 2, 8, 2])
    first, a = of([0, 1, 2], [8, 8, 8])
    second, b = of([3, 4, 5], [2, 2, 2])
    assert together.loss.item() == pytest.approx((first.loss + second.loss).item() / 2, rel=1e-6)
    expected = torch.stack([gradient(first, a), gradient(second, b)], 1).flatten(0, 1) / 2
    torch.testing.assert_close(gradient(together, moving), expected, rtol=1e-4, atol=1e-7)


def test_a_clipped_sample_gives_no_gradient_and_still_counts_in_its_group_s_weight():
    # the first has left: exp(.5 - .4) = 1.105 > 1.01; the second has not: exp(.6 - .6) = 1
    one = with_errors([0.4, 0.6], [1.0, -1.0], [0, 0], old=[0.5, 0.6], ref=[0.5, 0.5])
    outcome = DGPO(beta=10, beta_kl=0.0, clip=0.01)(one)
    found = gradient(outcome, one.prediction).flatten()
    assert outcome.metrics["clipped"].tolist() == [1, 0] and found[0] == 0
    # W A dE / 2 with the weight of both errors: .268941 * -1 * 2 sqrt(.6) / 2
    assert found[1].item() == pytest.approx(-0.268941 * math.sqrt(0.6), abs=1e-6)
    back = with_errors([0.6, 0.4], [1.0, -1.0], [0, 0], old=[0.5, 0.5], ref=[0.5, 0.5])
    assert DGPO(beta_kl=0.0)(back).metrics["clipped"].tolist() == [0, 0]  # moved against their advantages
    lost = with_errors([0.5, 0.6], [1.0, -1.0], [0, 0], old=[0.5, 0.5], ref=[0.5, 0.5])
    assert DGPO(beta_kl=0.0)(lost).metrics["clipped"].tolist() == [0, 1]  # exp(-.1) < .99


def test_a_moving_reference_is_the_old_policy_and_the_pull_stays_with_the_frozen_one():
    advantage = [1.0, -1.0]
    old, ref = random(2, 5), random(2, 6)
    one = terms(random(2, 1).requires_grad_(True), advantage, [0, 0], old, ref)
    moving = DGPO(moving_reference=True, beta_kl=0.0, clip=1e6)(one)
    frozen = DGPO(beta_kl=0.0, clip=1e6)(terms(one.prediction, advantage, [0, 0], old, old))
    torch.testing.assert_close(moving.loss, frozen.loss)
    held = DGPO(moving_reference=True, beta_kl=0.5, clip=1e6)(one)
    pull = 0.5 * mean_square(one.prediction, ref).mean()
    torch.testing.assert_close(held.loss, moving.loss + pull)
    assert DGPO(moving_reference=True, beta_kl=0.0).needs == {"old"} and DGPO().needs == {"old", "reference"}


def test_the_copies_of_both_follow_their_schedules():
    dgpo, crd = DGPO(switch=200), CRD()
    assert [dgpo.copy_decay("old", n) for n in (0, 100, 300, 5000)] == pytest.approx([0, 0.1, 0.3, 0.3])
    assert [dgpo.drawn_by(n) for n in (0, 200, 201)] == ["policy", "policy", "old"]
    assert [crd.copy_decay("old", n) for n in (0, 50, 150, 900)] == pytest.approx([0.25, 0.5, 0.999, 0.999])
    assert [crd.copy_decay("sampler", n) for n in (0, 75, 175, 400)] == pytest.approx([0, 0, 0.75, 0.999])
    assert crd.drawn_by(0) == "sampler"


def test_crd_by_hand():
    """q (.2, -.2), r (1, 0), b 1: rewards less their mean (.5, -.5), 5 mean (.2 - .5)^2 = 5 * .09 = .45."""
    method, group = CRD(), torch.tensor([3, 3])
    q, r = torch.tensor([0.2, -0.2], requires_grad=True), torch.tensor([1.0, 0.0])
    assert 5 * method.matching(q, r, group).mean().item() == pytest.approx(0.45)
    # the cross-entropy of .2 with s(.5) = .622459: log(1 + e^.2) - .622459 * .2 = .798139 - .124492 for both
    assert CRD(loss="bce").matching(q, r, group).tolist() == pytest.approx([0.673647] * 2, abs=1e-6)
    # T -> infinity is the plain mean; T = 1: means .731059 and .268941 of r, .0924234 and -.0924234 of q
    warm = CRD(temperature=1e6).matching(q, r, group)
    torch.testing.assert_close(warm, method.matching(q, r, group), atol=1e-5, rtol=1e-4)
    high = [(0.2 - 0.0924234 - (1 - 0.731059)) ** 2, (-0.2 - 0.0924234 + 0.731059) ** 2]
    low = [(0.2 + 0.0924234 - (1 - 0.268941)) ** 2, (-0.2 + 0.0924234 + 0.268941) ** 2]
    assert CRD(temperature=1.0).matching(q, r, group).tolist() == pytest.approx(
        [(h + w) / 2 for h, w in zip(high, low, strict=True)], abs=1e-6)


@pytest.mark.parametrize("beta", [1.0, 0.2])
def test_crd_starts_at_a_weighted_step_towards_what_is_better_than_its_group(beta):
    """At the old policy q = 0, and the gradient is -2 A_max (r - mean r) dq / B, whatever b is."""
    one = terms(random(4, 1).requires_grad_(True), [5.0, -5.0, 2.0, 2.0], [0, 0, 1, 1])
    method = CRD(beta=beta, beta_kl=0.0)
    q = method.implicit_reward(one)
    assert q.abs().max() == 0
    centred = torch.tensor([0.5, -0.5, 0.0, 0.0])  # r = (1, 0), and (.7, .7)
    expected = torch.autograd.grad((-2 * 5 * centred * q).mean(), one.prediction, retain_graph=True)[0]
    torch.testing.assert_close(gradient(method(one), one.prediction), expected, atol=1e-7, rtol=1e-5)


def test_crd_pulls_a_group_of_equal_rewards_to_the_old_policy_alone():
    old = random(3, 2)
    for reward in (-2.0, 0.0, 5.0):
        method = CRD(beta_kl=0.0)
        at_old = terms(old.clone().requires_grad_(True), [reward] * 3, [0, 0, 0], old)
        assert gradient(method(at_old), at_old.prediction).abs().max() == 0
        away = terms((old + 0.1 * random(3, 4)).requires_grad_(True), [reward] * 3, [0, 0, 0], old)
        before, step = method(away), gradient(method(away), away.prediction)
        after = method(terms(away.prediction.detach() - 0.1 * step, [reward] * 3, [0, 0, 0], old))
        assert step.abs().max() > 0 and after.loss < before.loss
        assert after.metrics["implicit_reward"].std() < before.metrics["implicit_reward"].std()


def test_crd_holds_good_samples_to_the_reference_and_bad_ones_hardly():
    # r = (1, 0): weights .1 and 1e-4, of |v - v_ref|^2 = 1; without adaptive_kl both .1
    prediction = random(2, 1)
    one = terms(prediction, [5.0, -5.0], [0, 0], ref=prediction + 1)
    free = CRD(beta_kl=0.0)(one).loss
    assert (CRD()(one).loss - free).item() == pytest.approx((0.1 + 1e-4) / 2, rel=1e-4)
    assert (CRD(adaptive_kl=False)(one).loss - free).item() == pytest.approx(0.1, rel=1e-4)
    assert (CRD(beta_kl=1e-5)(one).loss - free).item() == pytest.approx(1e-5, rel=2e-2)


def test_crd_s_errors_are_divided_by_their_own_size_unless_told_otherwise():
    # errors .09 and .25 of one number: .09 / .3 = .3 and .25 / .5 = .5, so q = .5 - .3
    one = with_errors([0.09], [1.0], [0], old=[0.25])
    assert CRD().implicit_reward(one).item() == pytest.approx(0.2)
    assert CRD(adaptive=False).implicit_reward(one).item() == pytest.approx(0.16)


@pytest.mark.parametrize("build, word", [
    (lambda: DGPO(beta=0), "beta"), (lambda: DGPO(clip=0), "clip"), (lambda: DGPO(best_of=2), "best_of"),
    (lambda: DGPO(moving_reference=True, beta_kl=0.0, ref_guidance=4.5), "ref_guidance"),
    (lambda: CRD(beta_kl=0.0, ref_guidance=4.5), "ref_guidance"), (lambda: CRD(temperature=0), "temperature"),
    (lambda: CRD(decay_start=1.0), "decay_start")])
def test_settings_that_make_no_sense_are_refused(build, word):
    with pytest.raises(ValueError, match=word):
        build()
