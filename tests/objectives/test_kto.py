"""KTO of answers and of images: numbers worked out by hand."""

import pytest
import torch

from tests.objectives.pair_t import logs
from visalign.objectives import PairErrors
from visalign.objectives.kto import KTO, DiffusionKTO
from visalign.objectives.language import PairLogs


def single(rho, desirable, **more) -> PairLogs:
    rho = torch.tensor(rho, requires_grad=True)
    return PairLogs(chosen=rho, ref_chosen=torch.zeros_like(rho), chosen_tokens=torch.ones_like(rho),
                    desirable=torch.tensor(desirable), **more)


def test_single_answers():
    # rho 0.001 good, -0.0005 bad, beta 1000: k = 0.00025; s(-0.75) = 0.320821 for both
    outcome = KTO(beta=1000)(single([0.001, -0.0005], [True, False]))
    assert outcome.metrics["usual"].tolist() == pytest.approx([0.00025] * 2)
    assert outcome.loss.item() == pytest.approx(0.320821, abs=1e-6)
    # good answers alone count: 2 * 0.320821 / 2
    weighed = KTO(beta=1000, desirable_weight=2.0, undesirable_weight=0.0)(single([0.001, -0.0005], [True, False]))
    assert weighed.loss.item() == pytest.approx(0.320821, abs=1e-6)


def test_a_pair_is_a_good_and_a_bad_answer():
    # rho 1 and -1: k = 0, both s(-0.1) = 0.475021
    pair = KTO()(logs())
    apart = KTO()(single([1.0, -1.0], [True, False]))
    assert pair.loss.item() == pytest.approx(0.475021, abs=1e-6) == apart.loss.item()
    assert pair.metrics["margin"].item() == pytest.approx(0.2)


def test_the_usual_distance_is_never_below_0_and_carries_no_gradient():
    answers = single([-1.0, -3.0], [True, False])
    outcome = KTO()(answers)
    outcome.loss.backward()
    # d/d rho = -y beta s'(.)/2 at rho - 0: s(0.1) s(-0.1) = 0.249376, s(0.3) s(-0.3) = 0.244458
    assert outcome.metrics["usual"].tolist() == [0, 0]
    assert answers.chosen.grad.tolist() == pytest.approx([-0.0124688, 0.0122229], abs=1e-6)


def test_the_usual_distance_is_that_of_all_processes():
    alone = KTO()(single([1.0, 1.0], [True, False], across=lambda mean: (mean + 3) / 2))
    assert alone.metrics["usual"].tolist() == [2, 2]


def test_answers_without_labels_are_refused():
    with pytest.raises(ValueError, match="kto needs pairs, or answers with a label"):
        KTO()(PairLogs(chosen=torch.zeros(1), ref_chosen=torch.zeros(1), chosen_tokens=torch.ones(1)))
    with pytest.raises(ValueError, match="nothing to learn"):
        KTO(desirable_weight=0.0, undesirable_weight=0.0)


def images(gains, desirable, **more) -> PairErrors:
    """Errors 0.3 - g, where the reference's are 0.3; float64."""
    errors = (0.3 - torch.tensor(gains, dtype=torch.float64)).requires_grad_()
    one = torch.ones_like(errors)
    return PairErrors(errors, one / 2, one, ref_chosen=0.3 * one, desirable=torch.tensor(desirable), **more)


def test_images_have_the_loss_of_answers():
    outcome = DiffusionKTO()(images([0.001, -0.0005], [True, False]))
    assert outcome.metrics["usual"].tolist() == pytest.approx([0.00025] * 2)
    assert outcome.loss.item() == pytest.approx(0.320821, abs=1e-6)
    assert outcome.metrics["margin"].tolist() == pytest.approx([0.75, 0.75])
    assert outcome.metrics["reward"].tolist() == pytest.approx([1.0, -0.5])
    weighed = DiffusionKTO(desirable_weight=2.0, undesirable_weight=0.0)(images([0.001, -0.0005], [True, False]))
    assert weighed.loss.item() == pytest.approx(0.320821, abs=1e-6)


def test_images_at_the_reference_are_pulled_as_their_label_says():
    batch = images([0.0, 0.0], [True, False])
    outcome = DiffusionKTO()(batch)
    outcome.loss.backward()
    # s(0) = 1/2, and dE of a good one by beta s(0) s(0) / 2 = 125, of a bad one by -125
    assert outcome.loss.item() == 0.5 and batch.chosen.grad.tolist() == pytest.approx([125, -125])


def test_the_usual_distance_of_images_is_that_of_all_processes_and_never_below_0():
    alone = DiffusionKTO()(images([0.001, 0.001], [True, False], across=lambda mean: (mean + 0.003) / 2))
    assert alone.metrics["usual"].tolist() == pytest.approx([0.002] * 2)
    assert DiffusionKTO()(images([-0.001, -0.003], [True, False])).metrics["usual"].tolist() == [0, 0]


def test_soft_labels_and_loss_weights_of_images():
    batch, turned = [0.001, -0.0005], [False, True]
    right, wrong = (DiffusionKTO()(images(batch, good)).loss.item() for good in ([True, False], turned))
    assert wrong == pytest.approx(1 - 0.320821, abs=1e-6)
    soft = DiffusionKTO()(images(batch, [True, False], chance=torch.tensor([0.75, 0.75])))
    assert soft.loss.item() == pytest.approx(0.75 * right + 0.25 * wrong)
    assert DiffusionKTO()(images(batch, [True, False], weight=2.0)).loss.item() == pytest.approx(2 * right)


UTILITIES = ("kahneman_tversky", "loss_averse", "risk_seeking")


def test_the_losses_of_the_three_utilities_by_hand():
    # z = 0.75 of both: 1 - s(z), log(1 + e^-z), -log(1 + e^z)
    for utility, loss in zip(UTILITIES, (0.320821, 0.386871, -1.136871), strict=True):
        outcome = DiffusionKTO(utility=utility)(images([0.001, -0.0005], [True, False]))
        assert outcome.loss.item() == pytest.approx(loss, abs=1e-6)
        assert outcome.metrics["margin"].tolist() == pytest.approx([0.75, 0.75])
    excess, good = torch.randn(64), torch.rand(64) < 0.5
    plain = torch.sigmoid(-1000.0 * torch.where(good, excess, -excess))
    assert torch.equal(DiffusionKTO().losses(excess, good), plain)  # the default is as it was, to the bit


def test_what_the_three_utilities_pull_at():
    z = torch.linspace(-6, 6, 25, dtype=torch.float64)
    worth, pull, bend = {}, {}, {}
    for utility in UTILITIES:
        of = z.clone().requires_grad_()
        worth[utility] = -DiffusionKTO(utility=utility).lost(-of)
        [first] = torch.autograd.grad(worth[utility].sum(), of, create_graph=True)
        [bend[utility]] = torch.autograd.grad(first.sum(), of)
        pull[utility] = first.detach()
    known = {"kahneman_tversky": z.sigmoid() * (-z).sigmoid(), "loss_averse": (-z).sigmoid(),
             "risk_seeking": z.sigmoid()}
    for utility in UTILITIES:
        assert torch.allclose(pull[utility], known[utility], atol=1e-12)
    assert (bend["loss_averse"] < 0).all() and (bend["risk_seeking"] > 0).all()
    assert torch.equal(bend["kahneman_tversky"].sign()[z != 0], -z.sign()[z != 0])
    assert torch.allclose(worth["risk_seeking"].detach() + worth["loss_averse"].detach(), z)
    assert torch.isfinite(DiffusionKTO(utility="loss_averse").lost(torch.tensor([-1e5, 1e5]))).all()


def test_far_samples_are_pulled_on_by_risk_seeking_alone():
    far = {utility: images([0.02, 0.0], [True, False], across=lambda mean: 0 * mean) for utility in UTILITIES}
    for utility, batch in far.items():
        DiffusionKTO(utility=utility)(batch).loss.backward()
    pulls = {utility: batch.chosen.grad[0].item() for utility, batch in far.items()}  # of a good sample at z = 20
    assert pulls["risk_seeking"] == pytest.approx(500) and 0 < pulls["loss_averse"] < 1e-5
    assert 0 < pulls["kahneman_tversky"] < 1e-5


def test_images_without_labels_are_refused():
    with pytest.raises(ValueError, match="diffusion_kto needs samples with a label"):
        DiffusionKTO()(PairErrors(torch.zeros(1), torch.zeros(1), torch.ones(1), ref_chosen=torch.zeros(1)))
    assert DiffusionKTO().needs == {"reference", "desirable"}
