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


def test_images_without_labels_are_refused():
    with pytest.raises(ValueError, match="diffusion_kto needs samples with a label"):
        DiffusionKTO()(PairErrors(torch.zeros(1), torch.zeros(1), torch.ones(1), ref_chosen=torch.zeros(1)))
    assert DiffusionKTO().needs == {"reference", "desirable"}
