"""The embedded CLIP reward against open_clip by itself, and refusals."""

import io

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from visalign.data.embedded_images import EMOJI
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import ClipScore, load_reward
from visalign.rewards.clip import ClipScore as Clip
from visalign.rewards.openclip import EMBEDDED_CLIPS


@pytest.fixture(scope="module")
def reward() -> ClipScore:
    return load_reward("tiny-clip")


@pytest.fixture(scope="module")
def drawings():
    return [row for row in pq.read_table(EMOJI).to_pylist() if row["split"] == "held_out"]


def image(row):
    return Image.open(io.BytesIO(row["image"])).convert("RGB")


def test_score_is_the_cosine_computed_without_visalign(reward, drawings):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{EMBEDDED_CLIPS['tiny-clip']}")
    tokens = open_clip.get_tokenizer(f"local-dir:{EMBEDDED_CLIPS['tiny-clip']}")(["a red fruit"])
    with torch.no_grad():
        cosine = F.cosine_similarity(
            model.eval().encode_image(preprocess(image(drawings[0]))[None]), model.encode_text(tokens)
        )
    score = reward.score([Sample("a red fruit", image(drawings[0]))]).values
    assert score.shape == (1, 1)
    torch.testing.assert_close(score[0], cosine, atol=1e-5, rtol=1e-4)


def test_unseen_drawings_fit_their_own_name_better_than_most_others(reward, drawings):
    names = sorted({row["name"] for row in drawings})
    images = reward.features([image(row) for row in drawings])
    similarity = images @ reward.text_features(names).T
    own = torch.tensor([names.index(row["name"]) for row in drawings])
    rank = (similarity > similarity.gather(1, own[:, None])).sum(1)
    assert (rank == 0).float().mean() > 0.6  # chance is 1 in the number of names


def test_folders_without_config_or_with_pickles_only_are_refused(tmp_path):
    with pytest.raises(UserError, match="open_clip_config"):
        Clip(str(tmp_path)).check()
    (tmp_path / "open_clip_config.json").write_text("{}")
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="safetensors"):
        Clip(str(tmp_path)).check()


def test_unknown_reward_names_the_nearest():
    with pytest.raises(UserError, match="tiny-clip"):
        load_reward("tiny-clp")


def test_a_prompt_that_is_cut_is_said_to_be_cut(reward, drawings):
    answer = reward.score(
        [Sample("a red fruit " * 20, image(drawings[0])), Sample("a red fruit", image(drawings[0]))]
    )
    assert answer.remarks == {0: "prompt cut to the model's 16 tokens"} and answer.values.isfinite().all()


def test_scales_are_percent_and_hessel(drawings):
    sample = [Sample("a red fruit", image(drawings[0]))]
    cosine = load_reward("tiny-clip").score(sample).values
    source = {"kind": "clip", "source": "tiny-clip"}
    torch.testing.assert_close(load_reward(source | {"scale": "percent"}).score(sample).values, 100 * cosine)
    torch.testing.assert_close(
        load_reward(source | {"scale": "hessel"}).score(sample).values, 2.5 * cosine.clamp(min=0)
    )


@pytest.mark.parametrize("source", ["tiny-clip", "ViT-B-32"])
def test_images_of_the_models_size_skip_resizing_and_give_the_same_numbers(source):
    from visalign.rewards.openclip import to_batch

    name = f"local-dir:{EMBEDDED_CLIPS[source]}" if source in EMBEDDED_CLIPS else source
    preprocess = open_clip.create_model_and_transforms(name, load_weights=False)[2]
    side = 64 if source in EMBEDDED_CLIPS else 224
    fitting = [Image.effect_noise((side, side), 90).convert("RGB") for _ in range(3)]
    mixed = [*fitting, Image.effect_noise((side + 9, side - 20), 90).convert("RGB"), fitting[0].convert("L")]
    for images in (fitting, mixed):
        assert torch.equal(to_batch(preprocess, images), torch.stack([preprocess(image) for image in images]))


def test_cut_prompts_are_found_though_padding_is_a_word():
    from visalign.rewards.openclip import cut_prompts

    tokenizer = open_clip.get_tokenizer("ViT-B-32")  # pads with 0, which is also "!"
    prompts = ["! ! " * 50, "! ! " * 10, "a cat " * 40]
    assert cut_prompts(tokenizer, prompts).keys() == {0, 2}


@pytest.mark.gpu
def test_a_reward_gives_the_same_on_an_accelerator_and_can_leave_it(drawings):
    samples = [Sample("a red fruit", image(row)) for row in drawings]
    there, here = load_reward("tiny-clip", "cuda"), load_reward("tiny-clip")
    torch.testing.assert_close(there.score(samples).values, here.score(samples).values, atol=1e-4, rtol=1e-3)
    there.to("cpu")
    torch.testing.assert_close(there.score(samples).values, here.score(samples).values)
