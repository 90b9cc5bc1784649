"""Direct-Align: what one step at known noise gives back, by hand, and where its loss stops pushing."""

import pytest
import torch

from visalign.objectives.backprop import DirectAlign
from visalign.objectives.online import RewardTerms
from visalign.processes import Diffusion, Flow
from visalign.trainers.online.known_noise import KnownSteps

ALPHAS_CUMPROD = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)


def steps_of(process, t, t_next, x0=1.0, noise=-0.5) -> KnownSteps:
    x0, noise = (torch.full((1, 1), value, dtype=torch.float64) for value in (x0, noise))
    t, t_next = torch.tensor([t]), torch.tensor([t_next])
    return KnownSteps(process.add_noise(x0, noise, t), noise, t, t_next, t_next > t)


def flow_steps(t, t_next, **given):
    return steps_of(Flow(), torch.tensor(t, dtype=torch.float64), torch.tensor(t_next, dtype=torch.float64), **given)


def given_back(process, steps, v):
    return steps.recovered(process, torch.tensor([[v]], dtype=torch.float64)).item()


def test_an_error_of_the_velocity_enters_shortened():
    # x_t = .1 - .45 = -.35, v = -1.5 + .1 = -1.4; x' = -.35 + .05 1.4 = -.28; x0 = (-.28 + .425) / .15 = .966667
    assert given_back(Flow(), flow_steps(0.9, 0.85), -1.4) == pytest.approx(0.966667, abs=1e-6)
    # d = t is the estimate x_t - t v = -.35 + 1.26 = .91
    assert given_back(Flow(), flow_steps(0.9, 0.0), -1.4) == pytest.approx(0.91, abs=1e-12)
    # to more noise: x' = -.35 - .05 1.4 = -.42; x0 = (-.42 + .475) / .05 = 1.1
    assert given_back(Flow(), flow_steps(0.9, 0.95), -1.4) == pytest.approx(1.1, abs=1e-9)


@pytest.mark.parametrize("t_next", [0.0, 0.2, 0.55, 0.65, 0.9, 0.99])
def test_the_exact_velocity_gives_the_sample_back_at_any_distance(t_next):
    assert given_back(Flow(), flow_steps(0.6, t_next), -1.5) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("t_next", [-1, 300, 550, 700, 900])
def test_so_does_the_exact_prediction_of_a_diffusion_model(kind, t_next):
    process = Diffusion(ALPHAS_CUMPROD, kind)
    steps = steps_of(process, 600, t_next)
    exact = process.target(torch.ones(1, 1, dtype=torch.float64), steps.noise, steps.t)
    assert given_back(process, steps, exact.item()) == pytest.approx(1, abs=1e-9)


def test_both_branches_push_the_velocity_the_same_way_when_the_reward_turns_with_them():
    """r = x0 for the denoising branch and -x0 for the other: dr/dv = -d/(1-t+d) and -d/(1-t-d)."""
    pushes = []
    for t_next, sign in ((0.6, 1), (0.8, -1)):
        v = torch.tensor([[-1.3]], dtype=torch.float64, requires_grad=True)
        pushes.append(torch.autograd.grad(sign * flow_steps(0.7, t_next).recovered(Flow(), v).sum(), v)[0].item())
    assert pushes == pytest.approx([-0.1 / 0.4, -0.1 / 0.2])


def test_the_loss_by_hand():
    prediction = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]])
    terms = RewardTerms(torch.tensor([0.2, 0.9], requires_grad=True), prediction, torch.zeros_like(prediction))
    plain = DirectAlign()(terms)
    assert plain.loss.item() == pytest.approx(-0.55)
    # hinge: (.5 + 0) / 2; the second is above the ceiling and pushes no more; |v - v_ref|^2 = 5 and 0
    hinged = DirectAlign(ceiling=0.7, beta=0.1, scale=2.0)(terms)
    assert hinged.loss.item() == pytest.approx(2 * 0.25 + 0.1 * 2.5)
    assert torch.autograd.grad(hinged.loss, terms.reward)[0].tolist() == [-1.0, 0.0]
    assert hinged.metrics["kl"].tolist() == [5.0, 0.0]


def test_only_the_pull_needs_the_reference():
    assert DirectAlign().needs == frozenset() and DirectAlign(beta=0.1).needs == {"reference"}


@pytest.mark.parametrize("given, message", [
    ({"cleanest": 0.8, "noisiest": 0.7}, "cleanest 0.8 lies above noisiest 0.7"),
    ({"cleanest": 0.1, "distance": 0.2}, "distance 0.2 leads beyond clean data from cleanest 0.1"),
    ({"noisiest": 0.95, "distance": 0.05, "branches": "both"}, "must be below 1 for branches both"),
    ({"noisiest": 0.96, "branches": "inverse"}, "must be below 1 for branches inverse"),
    ({"distance": 1.0}, "distance must be greater than 0 and below 1"), ({"times": 0}, "times must be at least 1"),
    ({"distance": 0}, "distance must be greater than 0")])
def test_steps_that_leave_the_path_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        DirectAlign(**given)


def test_each_branch_bounds_its_own_side_alone():
    assert DirectAlign(noisiest=0.99, cleanest=0.05, distance=0.05).branches == "denoise"
    assert DirectAlign(cleanest=0.01, distance=0.1, noisiest=0.8, branches="inverse").cleanest == 0.01
