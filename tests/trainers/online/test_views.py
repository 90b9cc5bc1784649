"""What an update sees: advantages of samples and of terms, and draws of samples and of groups."""

from dataclasses import replace

import pytest
import torch

from visalign.config import ModelSettings, RolloutSettings
from visalign.generators import load_generator
from visalign.generators.base import Guidance
from visalign.objectives.forward import DiffusionNFT
from visalign.objectives.group import CRD, DGPO
from visalign.objectives.policy import GRPO
from visalign.trainers.online.old_policy import OldPolicy
from visalign.trainers.online.rollout import Sampler, Start
from visalign.trainers.online.step_selection import noisy_steps
from visalign.trainers.online.view_names import VIEWS
from visalign.trainers.online.views import Context, MicroBatch

SETTINGS = RolloutSettings(steps=4, group_size=2, sampler="flow_sde")


def viewed(pipelines, objective, settings=SETTINGS):
    """A view, and a batch of two groups of two."""
    model = ModelSettings(source=str(pipelines("sd3")), precision="fp32", prompt_tokens=8, resolution=16)
    generator = load_generator(model, "cpu")
    noisy = noisy_steps(generator.process, generator.schedule(settings.steps), settings)
    view = VIEWS[objective.view](Context(generator, settings, objective, None, None, 5), noisy)
    starts = [Start(place, "a red fruit", "key", place, 10 + place) for place in range(4)]
    conditioning = generator.encode_prompts([start.prompt for start in starts])
    samples = Sampler(generator, settings, keep_mean=False).draw(starts, conditioning, None, frozenset(noisy),
                                                                 torch.tensor([noisy] * 4))
    return view, MicroBatch(samples, torch.tensor([1.0, -1.0, 0.5, 2.0]), conditioning, None, 3)


@pytest.mark.parametrize("objective", [GRPO(), DiffusionNFT(times=2, beta_kl=0.0)])
def test_an_advantage_for_all_terms_is_one_for_each_of_them(pipelines, objective):
    view, batch = viewed(pipelines, objective)
    view.needs = frozenset()
    constant = replace(batch, advantage=batch.advantage[:, None].expand(-1, view.terms))
    falling = replace(batch, advantage=batch.advantage[:, None] / torch.arange(1, view.terms + 1))
    assert view.terms >= 2
    for term in range(view.terms):
        terms, steps = view.build(batch, term)
        same, same_steps = view.build(constant, term)
        assert torch.equal(terms.advantage, same.advantage) and torch.equal(steps, same_steps)
        assert torch.equal(terms.prediction, same.prediction)
        assert torch.equal(view.build(falling, term)[0].advantage, batch.advantage / (term + 1))


def test_a_step_knows_the_noise_of_all_steps_of_its_sample_that_are_trained_on(pipelines):
    view, batch = viewed(pipelines, GRPO())
    view.needs = frozenset()
    view.expect(len(batch.samples[0].steps))
    noise = [view.build(batch, term)[0].std for term in range(view.terms)]
    weights = [std / view.build(batch, term)[0].mean_std for term, std in enumerate(noise)]
    assert view.terms == 4 and len({std[0].item() for std in noise}) == 4
    torch.testing.assert_close(torch.stack(weights).mean(0), torch.ones(4))
    # a sample of which fewer steps are stored is compared with those alone
    for sample in batch.samples[:2]:
        sample.steps, sample.before, sample.after = sample.steps[1:], sample.before[1:], sample.after[1:]
        sample.log_prob = sample.log_prob[1:]
    fewer = replace(batch, samples=batch.samples[:2], advantage=batch.advantage[:2],
                    conditioning={name: value[:2] for name, value in batch.conditioning.items()})
    torch.testing.assert_close(view.build(fewer, 0)[0].mean_std, torch.stack(noise[1:])[:, :2].mean(0))


def drawn(view, batch, term=1):
    terms, _ = view.build(batch, term)
    return terms.noise_fraction, (terms.target + terms.x0)  # a flow's target is noise - x0


@pytest.mark.parametrize("sampling", ["grid", "logit_normal"])
def test_a_group_shares_its_draws_and_a_sample_keeps_its_own(pipelines, sampling):
    method = DiffusionNFT(times=2, beta_kl=0.0, time_sampling=sampling)
    view, batch = viewed(pipelines, method)
    grouped, _ = viewed(pipelines, replace(method, draws="group"))
    view.needs = grouped.needs = frozenset()
    _, alone = drawn(view, batch)
    times, noise = drawn(grouped, batch)
    assert all(not torch.allclose(alone[i], alone[j]) for i in range(4) for j in range(i))
    for a, b in ((0, 1), (2, 3)):
        assert times[a] == times[b]
        torch.testing.assert_close(noise[a], noise[b])
    assert not torch.allclose(noise[0], noise[2])
    # it is the slot that decides, not the company: a group alone sees what it sees among others
    half = replace(batch, samples=batch.samples[2:], advantage=batch.advantage[2:],
                   conditioning={name: value[2:] for name, value in batch.conditioning.items()})
    torch.testing.assert_close(drawn(grouped, half)[1], noise[2:])


@pytest.mark.parametrize("method, wanted", [
    (DGPO(), (3.0, 3.0, 3.0)), (DGPO(train_guidance=1.0), (1.0, 1.0, 3.0)),
    (CRD(train_guidance=2.0, ref_guidance=4.5), (2.0, 2.0, 4.5))])
def test_what_learns_and_the_reference_may_have_a_guidance_of_their_own(pipelines, method, wanted):
    view, batch = viewed(pipelines, method)
    generator = view.generator
    generator.make_trainable("lora")
    view.context.old = OldPolicy([parameter for _, parameter in generator.trainable_parameters()])
    guided = replace(batch, guidance=Guidance(3.0, generator.encode_negatives(["a red fruit"] * 4)))
    x = torch.stack([sample.latents for sample in batch.samples])
    t = torch.full((4,), 0.6)

    def at(scale):
        return generator.predict(x, t, batch.conditioning, replace(guided.guidance, scale=scale))

    assert view.build(guided, 0)[0].group.tolist() == [0, 0, 1, 1]
    for found, scale in zip(view.predictions(x, t, guided), wanted, strict=True):
        torch.testing.assert_close(found, at(scale))
        assert scale == 3.0 or not torch.allclose(found, at(3.0))


@pytest.mark.parametrize("objective", [GRPO(), DiffusionNFT(times=2, beta_kl=0.0),
                                       DiffusionNFT(times=3, beta_kl=0.0, time_sampling="uniform", draws="group")])
def test_levels_are_those_at_which_terms_are_built(pipelines, objective):
    view, batch = viewed(pipelines, objective, SETTINGS.model_copy(update={"train_fraction": 1.0}))
    view.needs = frozenset()
    view.expect(len(batch.samples[0].steps))
    for i, sample in enumerate(batch.samples):
        levels = view.levels(batch.epoch, sample)
        assert len(levels) == view.terms and levels.dtype == torch.float64
        assert view.span[0] <= levels.min() and levels.max() <= view.span[1]
        for term, level in enumerate(levels.tolist()):
            terms, steps = view.build(batch, term)
            at = view.times[steps[i]] if objective.view == "steps" else terms.noise_fraction[i]
            assert level == pytest.approx(at.item())


def test_the_loop_passes_on_what_a_rule_gives_each_term(online_recipe, tmp_path, monkeypatch):
    """Advantages [n, T] that are alike for all terms train to the same bits as [n]."""
    from visalign.objectives.advantages import AdvantageRule

    from ..commands import run, weights

    quiet = {"eval": {"reward": None, "also": [], "features": None, "max_prompts": 1, "samples_per_prompt": 1}}
    run(online_recipe("sd3", "grpo", **quiet), "train.epochs=2", f"output.folder={tmp_path / 'one'}")
    plain = AdvantageRule.__call__

    def each_term(*arguments):
        found = plain(*arguments)
        return found._replace(by_term=found.advantages[:, None].expand(-1, 4))

    monkeypatch.setattr(AdvantageRule, "__call__", each_term)
    run(online_recipe("sd3", "grpo", **quiet), "train.epochs=2", f"output.folder={tmp_path / 'each'}")
    a, b = weights(tmp_path / "one", 2), weights(tmp_path / "each", 2)
    assert all(torch.equal(a[name], b[name]) for name in a)
