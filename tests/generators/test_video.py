"""Pipelines of videos: sampling is the pipeline's own, latents have a time axis, and what does not fit is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.families import TINY, each_family, load_tiny
from visalign.config import ModelSettings, RolloutSettings
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.base import Guidance
from visalign.media.samples import Video
from visalign.processes.steps import normal_log_prob
from visalign.trainers.online.rollout import Sampler, Start
from visalign.trainers.online.step_selection import noisy_steps

PROMPTS = ["a red fruit", "a cat face", "a red fruit"]


def loaded(pipelines, name, **changes):
    return load_tiny(pipelines(name), name, **changes)


def some_video(width=40, height=30, frames=7):
    return Video([Image.new("RGB", (width, height), (30 * i, 100, 255 - 30 * i)) for i in range(frames)], 8.0)


@each_family("video")
def test_sampling_is_the_pipeline_s_own(pipelines, name):
    from diffusers import DiffusionPipeline

    generator = loaded(pipelines, name)
    shape = generator.shape
    [[mine]] = generator.sample(["a cat face"], [7], steps=3, guidance_scale=2.0)
    plain = DiffusionPipeline.from_pretrained(pipelines(name))
    plain.set_progress_bar_config(disable=True)
    options = {"frame_rate": shape.fps} if name == "ltx" else {}
    theirs = plain(["a cat face"], num_inference_steps=3, guidance_scale=2.0, height=shape.height, width=shape.width,
                   num_frames=shape.frames, generator=[torch.Generator().manual_seed(7)], max_sequence_length=8,
                   output_type="np", **options).frames[0]
    assert len(mine.frames) == len(theirs) == shape.frames and mine.fps == shape.fps
    ours = np.stack([np.asarray(frame) for frame in mine.frames]) / 255
    assert np.abs(ours - theirs).max() <= 1.5 / 255 and theirs.std() > 0.01


@each_family("video")
def test_predictions_depend_on_the_order_of_frames(pipelines, name):
    generator = loaded(pipelines, name)
    x, texts = torch.randn(1, *generator.latent_shape()), generator.encode_prompts(["a red fruit"])
    t = generator.process.times_at(torch.tensor([0.5]))
    with torch.no_grad():
        plain, swapped = generator.predict(x, t, texts), generator.predict(x.flip(2), t, texts).flip(2)
    assert (swapped - plain).abs().max() > 1e-7


@pytest.mark.parametrize("name", ["wan", "ltx", "hunyuan"])
def test_a_run_without_noise_is_the_pipeline_s_own(pipelines, name):
    generator = loaded(pipelines, name)
    starts = [Start(i, prompt, prompt, i + 1, 0) for i, prompt in enumerate(PROMPTS)]
    guidance = Guidance(3.0, generator.encode_prompts([""] * 3))
    ours = Sampler(generator, RolloutSettings(steps=4, sampler="ode"), False).draw(
        starts, generator.encode_prompts(PROMPTS), guidance, frozenset(), torch.empty(3, 0, dtype=torch.int64))
    theirs = generator.pipeline(prompt=PROMPTS, num_inference_steps=4, guidance_scale=3.0, output_type="latent",
                                return_dict=False, **generator.call.shaped(),
                                generator=[torch.Generator().manual_seed(seed) for seed in (1, 2, 3)])[0]
    theirs = generator.conventions.from_rule(theirs)
    torch.testing.assert_close(torch.stack([s.latents for s in ours]), theirs, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("name, sampler, level", [("wan", "flow_sde", 0.7), ("hunyuan", "dance_sde", 0.3),
                                                  ("cogvideox", "ddim", 1.0)])
def test_stored_steps_of_videos_have_the_density_s_log_prob(pipelines, name, sampler, level):
    generator, settings = loaded(pipelines, name), RolloutSettings(steps=4, sampler=sampler, noise_level=level)
    noisy = noisy_steps(generator.process, generator.schedule(4), settings)
    starts = [Start(i, prompt, prompt, i, 9 + i) for i, prompt in enumerate(PROMPTS)]
    texts = generator.encode_prompts(PROMPTS)
    samples = Sampler(generator, settings, True).draw(starts, texts, None, frozenset(noisy),
                                                      torch.tensor([noisy] * 3))
    t, t_next = (generator.schedule(4)[i].repeat(3) for i in (1, 2))
    before, after = (torch.stack([getattr(s, side)[1] for s in samples]) for side in ("before", "after"))
    with torch.no_grad():
        moments = generator.process.moments(generator.predict(before, t, texts), before, t, t_next, sampler, level)
    torch.testing.assert_close(normal_log_prob(after, *moments), torch.stack([s.log_prob[1] for s in samples]),
                               atol=1e-5, rtol=1e-4)


@each_family("video")
def test_encoding_and_decoding_use_one_latent_scale(pipelines, name):
    generator = loaded(pipelines, name)
    pixels = generator.to_pixels([some_video(), some_video(60, 60, 3)])
    latents = generator.encode_media(pixels)
    assert pixels.shape[2:] == (generator.shape.frames, generator.shape.height, generator.shape.width)
    assert tuple(latents.shape[1:]) == generator.latent_shape()
    vae = generator.pipeline.vae
    with torch.no_grad():
        plain = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        torch.testing.assert_close(generator.decode_pixels(latents), plain, atol=1e-4, rtol=1e-4)
    videos = generator.decode(latents)
    assert [len(video.frames) for video in videos] == [generator.shape.frames] * 2


def test_memory_saving_switches_change_little(pipelines, monkeypatch):
    from visalign.generators import base

    generator = loaded(pipelines, "wan", vae_tiling=True, vae_slicing=True)
    assert generator.pipeline.vae.use_tiling and generator.pipeline.vae.use_slicing
    latents = torch.randn(3, *generator.latent_shape())
    together = generator.decode(latents)
    monkeypatch.setattr(base, "VAE_PIXELS", 1)
    for a, b in zip(together, generator.decode(latents), strict=True):
        assert np.abs(np.asarray(a.frames[2], int) - np.asarray(b.frames[2], int)).max() <= 1


def test_cogvideox_follows_its_own_noise_schedule(pipelines):
    generator = loaded(pipelines, "cogvideox")
    scheduler, process = generator.pipeline.scheduler, generator.process
    assert process.prediction_type == "v_prediction" and process.alphas_cumprod[-1] == 0  # no signal at the end
    scheduler.set_timesteps(4)
    x, v = torch.randn(2, 4, 3, 4, 4), torch.randn(2, 4, 3, 4, 4)
    theirs = scheduler.step(v, scheduler.timesteps[1], x)
    now, then = (scheduler.timesteps[i].repeat(2) for i in (1, 2))
    torch.testing.assert_close(process.moments(v, x, now, then).mean, theirs.prev_sample.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(process.x0_from(v, x, now), theirs.pred_original_sample.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name, changes, words", [
    ("wan", {"frames": 6}, r"model.frames 6: WanPipeline makes 1 \+ 2 k frames, such as 5 or 7"),
    ("wan", {"resolution": 24}, "a height of 24 is not a multiple of 16, which WanPipeline needs"),
    ("ltx", {"resolution": [32, 48]}, "a width of 48 is not a multiple of 32"),
])
def test_shapes_that_do_not_fit_are_refused(pipelines, name, changes, words):
    with pytest.raises(UserError, match=words):
        loaded(pipelines, name, **changes)


def test_latent_frames_that_the_network_takes_two_at_a_time(tmp_path):
    from tests.tiny.videos import build_cogvideox

    build_cogvideox(tmp_path, patch_size_t=2)
    with pytest.raises(UserError, match="gives 3 frames of latents, which the network takes 2 at a time; use 5 or 13"):
        load_generator(ModelSettings(source=str(tmp_path), resolution=32, frames=9), "cpu")


def test_a_model_s_folder_may_say_its_shape(pipelines, tmp_path):
    import shutil

    shutil.copytree(pipelines("wan"), tmp_path / "wan")
    (tmp_path / "wan" / "visalign.json").write_text('{"height": 16, "width": 16, "frames": 3, "fps": 8}')
    shape = load_generator(ModelSettings(source=str(tmp_path / "wan"), frames=5), "cpu").shape
    assert (shape.height, shape.frames, shape.fps) == (16, 5, 8)
    (tmp_path / "wan" / "visalign.json").write_text('{"hight": 16}')
    with pytest.raises(UserError, match=r"visalign\.json: not readable"):
        load_generator(str(tmp_path / "wan"), "cpu")


def test_images_for_a_model_of_videos_and_the_other_way_round(pipelines):
    with pytest.raises(UserError, match="row 3: holds an image, and WanPipeline makes videos"):
        loaded(pipelines, "wan").check_media([Image.new("RGB", (8, 8))], "row 3")
    images = load_generator(str(pipelines("sd3")), "cpu")
    with pytest.raises(UserError, match="row 4: holds a video, and StableDiffusion3Pipeline makes images"):
        images.check_media([some_video()], "row 4")


@pytest.fixture
def two_experts(tmp_path):
    from tests.tiny.videos import build_wan, wan_transformer

    return build_wan(tmp_path / "wan22", transformer_2=wan_transformer(seed=1), boundary_ratio=0.6)


def test_two_transformers_share_the_noise_range_as_the_pipeline_has_it(two_experts):
    settings = ModelSettings(source=str(two_experts), precision="fp32", prompt_tokens=8, **TINY["wan"].settings)
    generator = load_generator(settings, "cpu")
    starts = [Start(i, prompt, prompt, i + 1, 0) for i, prompt in enumerate(PROMPTS)]
    ours = Sampler(generator, RolloutSettings(steps=5, sampler="ode"), False).draw(
        starts, generator.encode_prompts(PROMPTS), Guidance(2.0, generator.encode_prompts([""] * 3)), frozenset(),
        torch.empty(3, 0, dtype=torch.int64))
    theirs = generator.pipeline(prompt=PROMPTS, num_inference_steps=5, guidance_scale=2.0, output_type="latent",
                                height=16, width=32, num_frames=5, max_sequence_length=8, return_dict=False,
                                generator=[torch.Generator().manual_seed(i) for i in (1, 2, 3)])[0]
    torch.testing.assert_close(torch.stack([s.latents for s in ours]), theirs, atol=5e-5, rtol=1e-4)
    x, t, texts = torch.randn(2, 4, 3, 8, 16), torch.tensor([0.9, 0.2]), generator.encode_prompts(PROMPTS[:2])
    with torch.no_grad():
        mixed, swapped = generator.predict(x, t, texts), generator.predict(x.flip(0), t.flip(0),
                                                                           {k: v.flip(0) for k, v in texts.items()})
    torch.testing.assert_close(mixed, swapped.flip(0))


def test_both_experts_learn_and_are_exported(two_experts, tmp_path):
    from visalign.config import OfflineConfig
    from visalign.generators.export.exporting import export

    settings = ModelSettings(source=str(two_experts), precision="fp32", prompt_tokens=8, **TINY["wan"].settings)
    generator = load_generator(settings, "cpu")
    generator.make_trainable("lora", rank=2, alpha=4)
    x, texts = torch.randn(2, 4, 3, 8, 16), generator.encode_prompts(PROMPTS[:2])
    t = torch.tensor([0.9, 0.2])
    with torch.no_grad():
        plain = generator.predict(x, t, texts)
        for _, parameter in generator.trainable_parameters():
            parameter.normal_(std=0.3)
        learnt = generator.predict(x, t, texts)
    with generator.reference():
        torch.testing.assert_close(generator.predict(x, t, texts), plain)
    assert ((learnt - plain).flatten(1).abs().amax(1) > 1e-3).all()
    config = OfflineConfig(model=settings, data={"path": "x"}, objective={"name": "flow_dpo"})
    assert "transformer_2/pytorch_lora_weights.safetensors" in export(generator, tmp_path / "export", config, {})
    again = load_generator(settings, "cpu")
    again.load_adapter(tmp_path / "export")
    with torch.no_grad():
        torch.testing.assert_close(again.predict(x, t, texts), learnt, atol=1e-5, rtol=1e-4)


def test_a_guide_on_two_experts_is_refused(two_experts):
    with pytest.raises(UserError, match="this model has two"):
        load_generator(ModelSettings(source=str(two_experts), **TINY["wan"].settings), "cpu").blocks()


def test_every_token_has_a_time_in_wan_22_5b(tmp_path):
    from tests.tiny.videos import build_wan

    folder = build_wan(tmp_path / "wan5b", expand_timesteps=True)
    generator = load_tiny(folder, "wan")
    [[mine]] = generator.sample(["a cat face"], [7], steps=3, guidance_scale=2.0)
    ours = Sampler(generator, RolloutSettings(steps=3, sampler="ode"), False).draw(
        [Start(0, "a cat face", "a cat face", 7, 0)], generator.encode_prompts(["a cat face"]),
        Guidance(2.0, generator.encode_prompts([""])), frozenset(), torch.empty(1, 0, dtype=torch.int64))
    again = generator.decode(ours[0].latents[None])[0]
    assert np.abs(np.asarray(mine.frames[4], int) - np.asarray(again.frames[4], int)).max() <= 1


def test_a_vae_that_takes_one_video_at_a_time_decodes_and_encodes_several(pipelines):
    generator = load_tiny(pipelines("hunyuan15"), "hunyuan15")
    latents = torch.randn(2, *generator.latent_shape())
    together, alone = generator.decode(latents), generator.decode(latents[1:])
    pixels = generator.to_pixels([together[1], alone[0]])
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(*generator.encode_media(pixels))
