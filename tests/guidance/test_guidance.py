"""Following a reward on noisy latents: the tilt is exact on a Gaussian, and sampling without weight is the model's."""

import pytest
import torch

from tests.families import each_family, load_tiny
from visalign.config import GuideHeadSettings, ModelSettings
from visalign.errors import UserError
from visalign.generators.base import Guidance
from visalign.guidance import Guided, Guiding, LatentReward, load_guide, save_guide
from visalign.processes import Diffusion, Flow

MEAN, VARIANCE = 0.7, 0.25


def loaded(pipelines, name, **changes):
    return load_tiny(pipelines(name), name, **changes)


def guide_of(generator, **changes):
    settings = {"dimensions": ("VQ", "MQ"), "blocks": (0,), "width": 16, "attention_heads": 2, "members": 2}
    return LatentReward(generator, GuideHeadSettings(**settings | changes)).eval()


def expected_x0(signal, noise, x):
    """E[x0 | x] for x0 ~ N(MEAN, VARIANCE) and x = signal x0 + noise eps."""
    return MEAN + signal * VARIANCE / (signal**2 * VARIANCE + noise**2) * (x - signal * MEAN)


def slope_of_x0(signal, noise):
    return signal * VARIANCE / (signal**2 * VARIANCE + noise**2)


def vp(prediction_type):
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return Diffusion(torch.cumprod(1 - betas, 0), prediction_type)


@pytest.mark.parametrize("process", [Flow(), vp("epsilon"), vp("v_prediction")], ids=["flow", "epsilon", "v"])
def test_tilting_a_gaussian_by_a_linear_reward_shifts_its_mean_by_w_sigma_a(process):
    """p = N(m, s2), r(x0) = a x0: then r_t = w a E[x0 | x_t] + const, and sampling must end at m + w a s2."""
    weight, a = 1.5, 0.8
    x = torch.randn(4000, 8, dtype=torch.float64)
    times = process.schedule(400)
    for now, then in zip(times, times[1:], strict=False):
        t, t_next = now.repeat(len(x)).to(x if process.kind == "flow" else now), then.repeat(len(x))
        if process.kind == "flow":
            signal, noise = 1 - now.double(), now.double()
        else:
            signal, noise = process.alphas_cumprod[now].sqrt(), (1 - process.alphas_cumprod[now]).sqrt()
        x0 = expected_x0(signal, noise, x)
        if process.kind == "flow":
            prediction = (x - x0) / noise
        else:
            eps = (x - signal * x0) / noise
            prediction = eps if process.prediction_type == "epsilon" else signal * eps - noise * x0
        gradient = weight * a * slope_of_x0(signal, noise)
        tilt = process.tilt(t, most=1e9).double()
        x = process.moments(prediction + tilt[:, None] * gradient, x, t, t_next.to(t)).mean
    assert x.mean().item() == pytest.approx(MEAN + weight * a * VARIANCE, abs=0.02)
    assert x.var().item() == pytest.approx(VARIANCE, rel=0.05)


def test_the_tilt_near_pure_noise_is_bounded():
    assert Flow().tilt(torch.tensor([0.5, 0.999])).tolist() == pytest.approx([-1.0, -10.0])
    assert vp("v_prediction").tilt(torch.tensor([999])).item() == -10.0


@each_family()
def test_features_are_tokens_of_the_first_blocks_with_gradients_to_the_latents(pipelines, name):
    generator = loaded(pipelines, name)
    x = torch.randn(2, *generator.latent_shape(), requires_grad=True)
    t = generator.process.times_at(torch.tensor([0.5, 0.5]))
    texts = generator.encode_prompts(["a red fruit", "a cat face"])
    [tokens] = generator.features(x, t, texts, (0,))
    assert tokens.ndim == 3 and len(tokens) == 2
    tokens.sum().backward()
    assert x.grad.abs().sum() > 0
    with torch.no_grad():  # the tap is gone: the whole network runs again
        assert generator.predict(x, t, texts).shape == x.shape


def test_a_guide_without_weight_changes_nothing_and_one_with_weight_raises_its_reward(pipelines):
    generator = loaded(pipelines, "wan")
    guide = guide_of(generator)
    plain = Guided(generator, guide, Guiding({"VQ": 0.0}))
    noise, texts = torch.randn(2, *generator.latent_shape()), generator.encode_prompts(["a red fruit", "a cat face"])
    guidance = Guidance(1.0)
    alone = plain.latents(noise, texts, guidance, 8)
    t, t_next = (generator.schedule(8)[i].repeat(2) for i in (0, 1))
    with torch.no_grad():
        first = generator.process.moments(generator.predict(noise, t, texts), noise, t, t_next).mean
    one = Guided(generator, guide, Guiding({"VQ": 0.0})).latents(noise, texts, guidance, 8)
    torch.testing.assert_close(alone, one)
    assert not torch.allclose(first, noise)
    pushed = Guided(generator, guide, Guiding({"VQ": 200.0}, 1.0, 0.0)).latents(noise, texts, guidance, 8)
    end = torch.full((2,), 0.05)
    with torch.no_grad():
        gain = guide(pushed, end, **texts).mean(1)[:, 0] - guide(alone, end, **texts).mean(1)[:, 0]
    assert (gain > 0).all()


def test_the_term_is_clipped_to_the_prediction_s_size_and_kept_to_its_range(pipelines):
    generator = loaded(pipelines, "wan")
    guide = guide_of(generator)
    x, texts = torch.randn(2, *generator.latent_shape()), generator.encode_prompts(["a cat face", "a tree"])
    prediction, t = torch.randn_like(x), torch.tensor([0.5, 0.5])
    huge = Guided(generator, guide, Guiding({"VQ": 1e6}, most=0.5)).term(x, t, texts, prediction)
    ratio = huge.flatten(1).square().mean(1).sqrt() / prediction.flatten(1).square().mean(1).sqrt()
    assert ratio.tolist() == pytest.approx([0.5, 0.5], rel=1e-4)
    seen = []
    guided = Guided(generator, guide, Guiding({"VQ": 1.0}, first=0.8, last=0.3))
    term = guided.term
    guided.term = lambda x, t, *rest: seen.append(t[0].item()) or term(x, t, *rest)
    guided.latents(x, texts, Guidance(1.0), 10)
    assert seen and all(0.3 <= time <= 0.8 for time in seen)


def test_a_saved_guide_is_the_same_guide(pipelines, tmp_path):
    generator = loaded(pipelines, "wan")
    guide = guide_of(generator)
    save_guide(tmp_path / "g", guide, ModelSettings(source="x"), {})
    again = load_guide(tmp_path / "g", generator)
    x, texts = torch.randn(2, *generator.latent_shape()), generator.encode_prompts(["a cat face", "a tree"])
    with torch.no_grad():
        torch.testing.assert_close(again(x, torch.tensor([0.4, 0.9]), **texts),
                                   guide(x, torch.tensor([0.4, 0.9]), **texts))
    with pytest.raises(UserError, match="does not fit CogVideoXPipeline"):
        load_guide(tmp_path / "g", loaded(pipelines, "cogvideox"))
    with pytest.raises(UserError, match=r"no guide's folder|not a guide's folder"):
        load_guide(tmp_path, generator)


@pytest.mark.parametrize("make, words", [
    (lambda: Guiding({"VQ": 1.0}, first=0.2, last=0.5), "must run from 1"),
    (lambda: Guiding({"VQ": 1.0}, most=0.0), "must be greater than 0"),
    (lambda: Guiding({"VG": 1.0}).check(("VQ", "MQ")), "there is no dimension 'VG'"),
])
def test_wrong_guiding_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_blocks_that_the_network_lacks(pipelines):
    with pytest.raises(UserError, match=r"head.blocks names block 7, but WanPipeline has the blocks 0 to 1"):
        guide_of(loaded(pipelines, "wan"), blocks=(0, 7))
