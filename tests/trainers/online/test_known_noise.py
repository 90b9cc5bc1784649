"""Direct-Align's view: draws that belong to samples, a reward in each sample's branch, gradients into the policy."""

from dataclasses import replace

import pytest
import torch

from visalign.config import ModelSettings, RewardSettings, RolloutSettings
from visalign.generators import load_generator
from visalign.objectives.backprop import DirectAlign
from visalign.processes import Flow
from visalign.trainers.online.known_noise import known_steps
from visalign.trainers.online.rollout import Start, Trajectory
from visalign.trainers.online.scoring import RewardSet
from visalign.trainers.online.view_names import VIEWS
from visalign.trainers.online.views import Context, MicroBatch

RELATIVE = {"kind": "relative", "of": "tiny-clip", "good": "yellow", "bad": "blue", "k": 0.1}
CPU = torch.device("cpu")


def samples(count=6):
    generator = torch.Generator().manual_seed(0)
    nothing = torch.empty(0)
    return [Trajectory(Start(place, "a red fruit", "key", place, place), torch.randn(16, 2, 2, generator=generator),
                       nothing.long(), nothing, nothing, nothing, None) for place in range(count)]


def test_a_draw_belongs_to_the_sample_and_not_to_its_batch():
    method = DirectAlign(branches="both")
    whole = known_steps(Flow(), method, samples(), CPU, (5, 3, 1))
    part = known_steps(Flow(), method, samples()[2:4], CPU, (5, 3, 1))
    for name in ("x_t", "noise", "t", "t_next", "swapped"):
        assert torch.equal(getattr(whole, name)[2:4], getattr(part, name))
    other = known_steps(Flow(), method, samples(), CPU, (5, 3, 2))
    assert not torch.equal(whole.noise, other.noise) and not torch.equal(whole.t, other.t)
    assert len(whole.t.unique()) == 6


def test_branches_take_turns_and_steps_have_their_length_and_side():
    method = DirectAlign(branches="both", distance=0.1, cleanest=0.3, noisiest=0.8)
    for draw, first in (((0, 0, 0), False), ((0, 0, 1), True), ((0, 1, 0), True)):
        steps = known_steps(Flow(), method, samples(), CPU, draw)
        assert steps.swapped.tolist() == [first, not first] * 3
        assert ((steps.t >= 0.3) & (steps.t <= 0.8)).all()
        torch.testing.assert_close(steps.t_next - steps.t, torch.where(steps.swapped, 0.1, -0.1))
    for branches, swapped in (("denoise", False), ("inverse", True)):
        steps = known_steps(Flow(), replace(method, branches=branches), samples(), CPU, (0, 0, 0))
        assert steps.swapped.tolist() == [swapped] * 6


def viewed(pipelines, base, objective, reward):
    model = ModelSettings(source=str(pipelines(base)), precision="fp32", prompt_tokens=8, resolution=16)
    generator = load_generator(model, "cpu")
    settings = RolloutSettings(steps=4, group_size=2, sampler="ode")
    rewards = RewardSet(RewardSettings(models=[reward]), "cpu", "image")
    view = VIEWS[objective.view](Context(generator, settings, objective, None, rewards, 5), [])
    drawn, shape = samples(4), generator.latent_shape()
    rng = torch.Generator().manual_seed(1)
    for sample in drawn:
        sample.latents = torch.randn(shape, generator=rng)
    conditioning = generator.encode_prompts([sample.start.prompt for sample in drawn])
    return view, MicroBatch(drawn, torch.zeros(4), conditioning, None, 0)


@pytest.mark.parametrize("base", ["sd3", "sdxl"])
def test_a_network_that_is_right_is_scored_on_its_own_sample(pipelines, base, monkeypatch):
    """With the exact prediction the reward is that of the decoded sample, in either branch."""
    view, batch = viewed(pipelines, base, DirectAlign(branches="both"), RELATIVE)
    view.needs = frozenset()
    steps = known_steps(view.process, view.context.objective, batch.samples, CPU, (5, 0, 0))
    x0 = torch.stack([sample.latents for sample in batch.samples])
    exact = view.process.target(x0, steps.noise, steps.t).requires_grad_(True)
    monkeypatch.setattr(view, "predictions", lambda x, t, batch: (exact, None, None))
    terms, places = view.build(batch, 0)
    pixels = (view.generator.decode_pixels(x0) / 2 + 0.5).clamp(0, 1)
    reward = view.context.reward_set.terms[0].reward
    plain = reward.score_pixels(pixels, ["a red fruit"] * 4)[:, 0]
    turned = replace(reward, good=RELATIVE["bad"], bad=RELATIVE["good"]).score_pixels(pixels, ["a red fruit"] * 4)[:, 0]
    torch.testing.assert_close(terms.reward, torch.where(steps.swapped, turned, plain), atol=2e-3, rtol=0)
    assert places.dtype == torch.int64 and terms.prediction.shape == (4, 1, *x0.shape[1:])


@pytest.mark.parametrize("base", ["sd3", "sdxl"])
def test_gradients_reach_the_lora(pipelines, base):
    objective = DirectAlign(branches="both", times=2, beta=0.1)
    view, batch = viewed(pipelines, base, objective, RELATIVE)
    view.generator.make_trainable("lora", rank=2, alpha=4)
    trained = view.generator.trainable_parameters()
    assert view.terms == 2
    for term in range(2):
        objective(view.build(batch, term)[0]).loss.backward()
    silent = {name for name, parameter in trained if "lora_B" in name and parameter.grad.abs().sum() == 0}
    assert {name for name in silent if "add_" not in name} == set() and len(silent) <= 1
