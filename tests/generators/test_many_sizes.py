"""One generator at several sizes: at each, the prediction is what the pipeline gives its scheduler at that size."""

import pytest
import torch

from tests.families import load_tiny
from tests.generators.observe.test_every_pipeline import steps_of
from visalign.config import BucketSettings, DataSettings
from visalign.errors import UserError
from visalign.generators.base import Guidance
from visalign.generators.bucket_sizes import buckets_of, check_buckets
from visalign.generators.families.registry import family_of
from visalign.media.fitting import fit_of

PROMPT = "a red fruit"


@pytest.fixture(scope="module")
def sdxl(pipelines):
    return load_tiny(pipelines("sdxl"), "sdxl")


@pytest.mark.parametrize("name, sizes", [("sdxl", [(8, 16), (16, 8)]), ("sd15", [(8, 16)]),
                                         ("sd3", [(8, 16), (16, 8)]), ("flux", [(8, 16)]), ("chroma", [(16, 12)])])
def test_predictions_are_the_pipeline_s_own_at_every_size(pipelines, name, sizes):
    """FLUX's positions, SD3's table, SDXL's time_ids; Chroma's mask depends on size and prompt together."""
    generator = load_tiny(pipelines(name), name)
    own, prompts = generator.shape, (generator.encode_prompts([PROMPT]), generator.encode_negatives([PROMPT]))
    for size in sizes:
        with generator.working_at(size):
            assert generator.shape.size == size and generator.latent_shape()[-2:] == (size[0] // 2, size[1] // 2)
            wanted, negative = prompts if not generator.by_size else \
                (generator.encode_prompts([PROMPT]), generator.encode_negatives([PROMPT]))
            guidance = Guidance(4.0, generator.for_size(negative))
            for sample, model_output, t, _ in steps_of(generator, PROMPT, 4.0):
                with torch.no_grad():
                    mine = generator.predict(generator.conventions.from_rule(sample.float()), t,
                                             generator.for_size(wanted), guidance)
                theirs = generator.conventions.from_rule(model_output.float())
                assert (mine - theirs).norm() < 1e-5 * theirs.norm()
    assert generator.shape == own and generator.by_size is False


def test_a_size_is_observed_once(sdxl, monkeypatch):
    with sdxl.working_at((8, 16)):
        first = sdxl.conventions
    monkeypatch.setattr(sdxl, "_observe_at", None)
    with sdxl.working_at((8, 16)), sdxl.working_at(None):
        assert sdxl.conventions is first and sdxl.latent_shape() == (4, 4, 8)
    with sdxl.working_at(sdxl.shape.size):
        assert sdxl.latent_shape() == (4, 8, 8)


def test_sdxl_is_told_each_image_s_own_size_and_crop(sdxl):
    texts = sdxl.encode_prompts([PROMPT, "grapes"])
    fits = torch.tensor([fit_of((16, 16), (16, 16)).numbers, fit_of((40, 30), (16, 16)).numbers])
    told = sdxl.for_size(texts, fits)["added_cond_kwargs.time_ids"]
    assert torch.equal(told[0], texts["added_cond_kwargs.time_ids"][0])  # a square of the model's size: as ever
    assert told[1].tolist() == [40, 30, 2, 0, 16, 16]  # 30 -> 16 makes 40 -> 21 rows, of which 16 are kept
    assert sdxl.for_size(texts).keys() == texts.keys()
    assert sdxl.for_size(texts)["added_cond_kwargs.time_ids"] is texts["added_cond_kwargs.time_ids"]
    with sdxl.working_at((8, 16)):
        assert sdxl.for_size(texts)["added_cond_kwargs.time_ids"].tolist() == [[8, 16, 0, 0, 8, 16]] * 2


def data(**settings):
    return DataSettings(buckets=BucketSettings(**settings))


def test_the_usual_sizes_follow_the_model(sdxl):
    assert buckets_of(data(), sdxl).sizes == ((8, 24), (8, 32), (16, 16), (24, 8), (32, 8))
    assert buckets_of(DataSettings(), sdxl) is None


@pytest.mark.parametrize("settings, words", [
    ({"step": 12}, ["data.buckets.step 12", "multiple of 8", "StableDiffusionXLPipeline", "8 or 16"]),
    ({"step": 16, "min": 8}, ["data.buckets.min 8", "data.buckets.step, which is 16", "16 or 32"]),
    ({"min": 24}, ["from 24 to 32", "side is 16", "lower data.buckets.min"])])
def test_sizes_that_cannot_be_are_one_sentence(sdxl, settings, words):
    with pytest.raises(UserError) as error:
        buckets_of(data(**settings), sdxl)
    assert all(word in str(error.value) for word in words)


def test_a_size_beyond_the_table_of_positions_is_named(pipelines):
    sd3 = load_tiny(pipelines("sd3"), "sd3", resolution=32)
    with pytest.raises(UserError, match="data.buckets: the size 16x52 cannot be used .*table of positions.*narrow"):
        buckets_of(data(), sd3)
    assert buckets_of(data(max=32), sd3).sizes[-1] == (32, 32)


def test_families_of_one_size_and_those_that_are_told_nothing_are_refused_before_loading():
    with pytest.raises(UserError, match="data.buckets: WanPipeline makes videos"):
        check_buckets(data(), family_of("WanPipeline"))
    with pytest.raises(UserError, match="data.micro_conditions image: FluxPipeline is not told"):
        check_buckets(DataSettings(micro_conditions="image"), family_of("FluxPipeline"))
