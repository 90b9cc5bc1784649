"""Samples that grow as trees: what leaves share, where they part, and what cannot grow."""

import pytest
import torch

from tests.families import load_tiny
from visalign.errors import UserError
from visalign.generators.base import Guidance
from visalign.processes import Flow
from visalign.processes.steps import draw
from visalign.sampling.branching import Branched, Branching
from visalign.sampling.seeds import rng_for

PROMPTS, SEEDS, STEPS = ["a red fruit"] * 4 + ["a cat face"] * 4, list(range(8)), 5


@pytest.fixture(params=["sd3", "sd15"])
def generator(request, pipelines):
    return load_tiny(pipelines(request.param), request.param)


def path(generator, *steps, scale=1.0):
    guidance = Guidance(scale, generator.encode_negatives(PROMPTS))
    generator.passes.clear()
    return list(Branched(generator, Branching(steps)).path(PROMPTS, SEEDS, STEPS, guidance))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_leaves_share_the_steps_before_they_part_bit_by_bit_and_none_after(generator, scale):
    states = path(generator, 1, 3, scale=scale)
    assert len(states) == STEPS + 1 and states[0].shape == (8, *generator.latent_shape())
    for first in (0, 4):
        leaves = [[state[first + i] for state in states] for i in range(4)]
        for a, b, step in ((0, 1, 3), (2, 3, 3), (0, 2, 1), (1, 3, 1), (0, 3, 1)):
            for j in range(STEPS + 1):
                assert torch.equal(leaves[a][j], leaves[b][j]) == (j <= step), (a, b, j)
    assert not torch.allclose(states[0][0], states[0][4])
    passed = 2 if scale > 1 else 1
    assert generator.passes["without gradient"] == passed * 2 * (1 + 2 + 2 + 4 + 4)  # 26, where 40 are needed apart


def test_the_trunk_is_the_deterministic_sample_of_its_first_seed(generator):
    trunk, texts = path(generator, 3)[3][0], generator.encode_prompts(PROMPTS[:1])
    x = torch.randn(generator.latent_shape(), generator=torch.Generator().manual_seed(SEEDS[0]))[None]
    times = generator.schedule(STEPS)
    for j in range(3):
        t, t_next = times[j:j + 1], times[j + 1:j + 2]
        x = generator.process.moments(generator.predict(x, t, texts), x, t, t_next).mean
    torch.testing.assert_close(trunk, x[0], rtol=1e-4, atol=1e-5)


def test_a_branch_at_step_0_gives_ordinary_samples(generator):
    """Each from the noise of its own seed, by the stochastic sampler alone."""
    found = path(generator, 0)[-1]
    texts, times = generator.encode_prompts(PROMPTS), generator.schedule(STEPS)
    sources = [rng_for("branch", seed) for seed in SEEDS]
    x = torch.stack([torch.randn(generator.latent_shape(), generator=torch.Generator().manual_seed(s)) for s in SEEDS])
    for j in range(STEPS):
        t, t_next = (times[i].repeat(8) for i in (j, j + 1))
        moments = generator.process.moments(generator.predict(x, t, texts), x, t, t_next,
                                            *generator.process.ENDS_CLEAN)
        x = draw(moments, torch.stack([torch.randn(x.shape[1:], generator=source) for source in sources]))
    assert torch.equal(found, x)


def test_a_tree_does_not_depend_on_what_it_is_drawn_with(generator):
    grown = Branched(generator, Branching((1,)))
    several = [media for batch in grown.sample(PROMPTS[:6], SEEDS[:6], steps=3, guidance_scale=1.0, batch_size=5)
               for media in batch]
    alone = [media for i in (0, 2, 4) for batch in grown.sample(PROMPTS[i:i + 2], SEEDS[i:i + 2], steps=3,
                                                                guidance_scale=1.0) for media in batch]
    assert len(several) == 6 and [each.size for each in several] == [each.size for each in alone]
    for a, b in zip(several, alone, strict=True):
        assert max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True)) <= 1
    assert len({each.tobytes() for each in several}) == 6 and grown.pipeline_class == generator.pipeline_class


def test_the_noise_of_the_sampler_is_gone_in_the_end(generator):
    t, nothing = generator.schedule(STEPS), torch.zeros(STEPS, 1)
    std = generator.process.moments(nothing, nothing, t[:-1], t[1:], *generator.process.ENDS_CLEAN).std
    assert (std[:-1] > 0).all() and std[-1] == 0


@pytest.mark.parametrize("steps, words", [
    ((), "must rise"), ((3, 1), "branches 3,1: the steps at which samples part must rise"), ((2, 2), "must rise"),
    ((-1,), "must rise"), ((0, 1, 2, 3, 4, 5), "names 6 steps, and a tree divides 5 times at most")])
def test_steps_that_make_no_tree_are_refused(steps, words):
    with pytest.raises(UserError) as caught:
        Branching(steps)
    assert words in str(caught.value)


def test_trees_that_the_samples_do_not_hold_are_refused():
    Branching((2, 10)).check(12, 8)
    with pytest.raises(UserError, match="branches 2,11: step 11 is too late for --steps 12; .* steps 0 to 10"):
        Branching((2, 11)).check(12, 8)
    with pytest.raises(UserError, match="6 samples a prompt are no whole number of trees of 4 leaves"):
        Branching((2, 6)).check(12, 6)


def test_a_model_without_noise_to_part_by_is_refused(pipelines, monkeypatch):
    generator = load_tiny(pipelines("sd3"), "sd3")
    grown = Branched(generator, Branching((1,)))
    monkeypatch.setattr(Flow, "ENDS_CLEAN", ("cps", 0.0))
    with pytest.raises(UserError, match="branches 1: with this model's times step 1 adds no noise"):
        next(grown.sample(PROMPTS[:2], [0, 1], steps=4, guidance_scale=1.0))
    monkeypatch.delattr(Flow, "ENDS_CLEAN")
    with pytest.raises(UserError, match="branches 1: StableDiffusion3Pipeline has no stochastic sampler"):
        next(grown.sample(PROMPTS[:2], [0, 1], steps=4, guidance_scale=1.0))
    with pytest.raises(ValueError, match="not those of whole trees"):
        next(grown.path(PROMPTS[3:5], [0, 1], 4, Guidance(1.0)))
