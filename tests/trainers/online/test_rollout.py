"""Sampling runs: the pipeline's own images, windows, branching, and what is stored."""

import dataclasses

import pytest
import torch

from visalign.config import ModelSettings, RolloutSettings, WindowSettings
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.base import Guidance
from visalign.processes.steps import normal_log_prob
from visalign.sampling.seeds import stable_seed
from visalign.trainers.online.rollout import Sampler, Start
from visalign.trainers.online.step_selection import check_noise, check_steps, noisy_steps, plan_steps, window_start

PROMPTS = ["a red fruit", "a cat face", "a red fruit"]


def loaded(pipelines, name):
    return load_generator(ModelSettings(source=str(pipelines(name)), precision="fp32", prompt_tokens=8, resolution=16),
                          "cpu")


def starts(prompts=PROMPTS, noise=(1, 2, 1), steps=(5, 6, 7)):
    return [Start(i, p, p, n, s) for i, (p, n, s) in enumerate(zip(prompts, noise, steps, strict=True))]


def drawn(generator, settings, stochastic, kept=None, guidance=None, who=None, keep_mean=True):
    who = who or starts()
    kept = torch.empty(len(who), 0, dtype=torch.int64) if kept is None else kept
    sampler = Sampler(generator, settings, keep_mean)
    return sampler.draw(who, generator.encode_prompts([s.prompt for s in who]), guidance, frozenset(stochastic), kept)


@pytest.mark.parametrize("name, scale", [("sd3", 1.0), ("sd3", 4.0), ("flux", 3.5)])
def test_a_run_without_noise_is_the_pipeline_s_own(pipelines, name, scale):
    generator = loaded(pipelines, name)
    negative = generator.encode_prompts([""] * 3)
    ours = drawn(generator, RolloutSettings(steps=5, sampler="ode"), (), guidance=Guidance(scale, negative))
    shape = generator.latent_shape()
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 1)])
    packed = noise
    if name == "flux":
        packed = generator.pipeline._pack_latents(noise, 3, *shape)
    theirs = generator.pipeline(prompt=PROMPTS, latents=packed, num_inference_steps=5, guidance_scale=scale, height=16,
                                width=16, output_type="latent", max_sequence_length=8).images
    theirs = generator.conventions.from_rule(theirs)
    torch.testing.assert_close(torch.stack([s.latents for s in ours]), theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name, settings", [
    ("sd3", RolloutSettings(steps=5)), ("sd3", RolloutSettings(steps=5, sampler="cps")),
    ("flux", RolloutSettings(steps=4, noise_level=0.9)),
    ("sdxl", RolloutSettings(steps=5, sampler="ddim", noise_level=1.0)),
    ("sd15-v", RolloutSettings(steps=5, sampler="ddim", noise_level=1.0))])
def test_stored_steps_follow_from_each_other_and_have_the_density_s_log_prob(pipelines, name, settings):
    generator = loaded(pipelines, name)
    noisy = noisy_steps(generator.process, generator.schedule(settings.steps), settings)
    assert noisy == list(range(len(noisy))) and len(noisy) >= settings.steps - 1
    samples = drawn(generator, settings, noisy, torch.tensor([noisy] * 3))
    for sample in samples:
        torch.testing.assert_close(sample.after[:-1], sample.before[1:])
        assert sample.log_prob.isfinite().all() and sample.steps.tolist() == noisy
    t, t_next = (generator.schedule(settings.steps)[i].repeat(3) for i in (1, 2))
    x = torch.stack([s.before[1] for s in samples])
    prediction = generator.predict(x, t, generator.encode_prompts(PROMPTS))
    mean, std = generator.process.moments(prediction, x, t, t_next, settings.sampler, settings.noise_level)
    after = torch.stack([s.after[1] for s in samples])
    torch.testing.assert_close(normal_log_prob(after, mean, std), torch.stack([s.log_prob[1] for s in samples]),
                               atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mean, torch.stack([s.mean[1] for s in samples]), atol=1e-5, rtol=1e-4)


def test_steps_before_the_window_are_the_same_wherever_it_lies(pipelines):
    generator, settings = loaded(pipelines, "sd3"), RolloutSettings(steps=6)
    early = drawn(generator, settings, (2, 3), torch.tensor([[0, 1, 2]] * 3))
    late = drawn(generator, settings, (4, 5), torch.tensor([[0, 1, 2]] * 3))
    for a, b in zip(early, late, strict=True):
        torch.testing.assert_close(a.before, b.before, atol=0, rtol=0)
        assert not torch.equal(a.after[2], b.after[2])


def test_branching_costs_one_pass_a_prompt_before_the_window_and_changes_nothing(pipelines):
    generator, settings = loaded(pipelines, "sd3"), RolloutSettings(steps=6, same_noise=True)
    kept = torch.tensor([[3, 4]] * 3)
    branched = drawn(generator, settings, (3, 4), kept)
    passes = generator.passes["without gradient"]
    assert passes == 3 * 2 + 3 * 3  # two distinct beginnings for three steps, then three samples for three
    alone = [drawn(generator, settings, (3, 4), kept[:1], who=[dataclasses.replace(start)])[0] for start in starts()]
    for a, b in zip(branched, alone, strict=True):
        torch.testing.assert_close(a.latents, b.latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(branched[0].before[0], branched[2].before[0])
    assert not torch.allclose(branched[0].latents, branched[2].latents)


def test_only_the_window_s_latents_are_stored(pipelines):
    sample = drawn(loaded(pipelines, "sd3"), RolloutSettings(steps=6), (2, 3), torch.tensor([[2, 3]] * 3),
                   keep_mean=False)[0]
    assert sample.before.shape[0] == sample.after.shape[0] == 2 and sample.mean is None
    torch.testing.assert_close(sample.after[0], sample.before[1])  # window + 1 distinct latents


def test_guidance_is_one_batched_pass_and_detaches_the_unguided_branch(pipelines):
    generator = loaded(pipelines, "sd3")
    parameters = generator.make_trainable("lora", rank=2, alpha=4)
    x, t = torch.randn(2, *generator.latent_shape()), torch.tensor([0.7, 0.3])
    wanted, negative = generator.encode_prompts(PROMPTS[:2]), generator.encode_prompts(["", ""])
    plain, unguided = generator.predict(x, t, wanted), generator.predict(x, t, negative)
    gradients = []
    for detach in (True, False):
        generator.passes.clear()
        guided = generator.predict(x, t, wanted, Guidance(3.0, negative, detach))
        assert generator.passes["with gradient"] == 4
        torch.testing.assert_close(guided, unguided + 3 * (plain - unguided), atol=1e-5, rtol=1e-4)
        guided.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        generator.denoiser.zero_grad()
    assert not torch.allclose(*gradients)


def test_guidance_apart_is_the_same_with_half_of_the_passes_with_gradient(pipelines):
    generator = loaded(pipelines, "sd3")
    parameters = generator.make_trainable("lora", rank=2, alpha=4)
    x, t = torch.randn(2, *generator.latent_shape()), torch.tensor([0.7, 0.3])
    wanted, negative = generator.encode_prompts(PROMPTS[:2]), generator.encode_prompts(["", ""])

    def learnt(apart: bool):
        generator.passes.clear()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            guided = generator.predict(x, t, wanted, Guidance(3.0, negative, apart=apart))
        guided.square().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        generator.denoiser.zero_grad()
        return guided.detach(), gradients, sum(kept), dict(generator.passes)

    guided, gradients, held, passes = learnt(False)
    guided_apart, gradients_apart, held_apart, passes_apart = learnt(True)
    torch.testing.assert_close(guided_apart, guided, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients_apart, gradients, atol=1e-4, rtol=1e-3)
    assert gradients.abs().max() > 1e-2 and held_apart < 0.7 * held  # frozen weights are counted in both
    assert (passes, passes_apart) == ({"with gradient": 4}, {"with gradient": 2, "without gradient": 2})


def test_flux_takes_the_scale_as_an_input(pipelines):
    generator = loaded(pipelines, "flux")
    x, t, wanted = torch.randn(1, *generator.latent_shape()), torch.tensor([0.5]), generator.encode_prompts(["a"])
    a, b = (generator.predict(x, t, wanted, Guidance(scale)) for scale in (1.0, 6.0))
    assert not torch.allclose(a, b) and generator.passes["without gradient"] + generator.passes["with gradient"] == 2
    torch.testing.assert_close(generator.predict(x, t, wanted), generator.predict(x, t, wanted, Guidance(3.5)))


@pytest.mark.parametrize("window, expected", [
    (WindowSettings(size=4, schedule="progressive", iterations=2), [0, 0, 1, 1, 2, 2]),
    (WindowSettings(size=4, schedule="progressive", iterations=1, stride=7), [0, 7, 14, 21, 0, 7]),
    (WindowSettings(size=4, schedule="progressive", iterations=1, first=20), [20, 21, 20, 21, 20, 21]),
    (WindowSettings(size=4, schedule="exp_decay", iterations=3, exp_rate=1.0, exp_from=0), [0, 0, 0, 1, 1, 2]),
    (WindowSettings(size=23, schedule="decay", iterations=6), [0] * 6)])
def test_window_schedules(window, expected):
    assert [window_start(window, 25, epoch, 0) for epoch in range(6)] == expected


def test_a_progressive_window_is_always_whole_and_returns_to_the_start():
    window = WindowSettings(size=4, schedule="progressive", iterations=2)
    places = [window_start(window, 25, epoch, 0) for epoch in range(100)]
    assert max(places) == 21 and places[44] == 0


def test_a_decaying_window_stays_shorter_the_later_the_place():
    window = WindowSettings(size=1, schedule="decay", iterations=4)
    places = [window_start(window, 4, epoch, 0) for epoch in range(10)]
    assert [places.count(place) for place in range(4)] == [4, 3, 2, 1]


def test_a_random_window_covers_its_range_and_is_the_same_after_a_kill():
    window = WindowSettings(size=2, first=1, last=3)
    places = [window_start(window, 10, epoch, 7) for epoch in range(60)]
    assert set(places) == {1, 2, 3} and places == [window_start(window, 10, epoch, 7) for epoch in range(60)]


def test_plans_take_the_first_steps_or_a_choice_for_each_sample(pipelines):
    noisy = list(range(9))
    first = plan_steps(RolloutSettings(steps=10, train_fraction=0.5), noisy, 0, 0, [0, 1])
    assert first.trained.tolist() == [[0, 1, 2, 3]] * 2 and first.stochastic == frozenset(noisy)
    random = plan_steps(RolloutSettings(steps=10, train_fraction=0.5, train_choice="random"), noisy, 0, 0,
                        list(range(20)))
    assert len({tuple(row) for row in random.trained.tolist()}) > 5
    assert all(row == sorted(set(row)) for row in random.trained.tolist())
    again = plan_steps(RolloutSettings(steps=10, train_fraction=0.5, train_choice="random"), noisy, 0, 0, [13, 4])
    assert again.trained.tolist() == random.trained[[13, 4]].tolist()


def test_a_clean_last_step_is_not_stochastic(pipelines):
    generator = loaded(pipelines, "sd3")
    settings = RolloutSettings(steps=5, sampler="dance_sde", noise_level=0.3, clean_steps=1)
    assert noisy_steps(generator.process, generator.schedule(5), settings) == [0, 1, 2, 3]


def test_no_noise_means_nothing_to_train_on():
    for settings in (RolloutSettings(sampler="ode"), RolloutSettings(noise_level=0), RolloutSettings(steps=3,
                                                                                                     clean_steps=3)):
        with pytest.raises(UserError, match="adds no noise"):
            check_noise(settings)
    with pytest.raises(UserError, match="no step adds noise"):
        check_steps(RolloutSettings(steps=1, sampler="cps"), [])
    with pytest.raises(UserError, match="rollout.window.last lower"):
        check_steps(RolloutSettings(steps=6, window=WindowSettings(size=1)), [0, 1])


def test_seeds_differ_by_every_part():
    assert len({stable_seed(0, 1, 2, "noise"), stable_seed(0, 1, 2, "steps"), stable_seed(0, 2, 1, "noise"),
                stable_seed(1, 0, 2, "noise")}) == 4
