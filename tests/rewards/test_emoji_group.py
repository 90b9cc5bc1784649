"""tiny-group tells real drawings' groups apart, and says so where it knows nothing."""

import io

import pyarrow.parquet as pq
import pytest
from PIL import Image

from visalign.data.embedded_images import EMOJI
from visalign.errors import UserError
from visalign.media.samples import Sample, to_pixels
from visalign.rewards import load_reward


@pytest.fixture(scope="module")
def held_out():
    return [Sample(row["captions"][0]["text"], Image.open(io.BytesIO(row["image"])).convert("RGB"))
            for row in pq.read_table(EMOJI).to_pylist() if row["split"] == "held_out"]


def test_held_out_drawings_are_of_their_captions_group_and_not_of_another(held_out):
    reward = load_reward("tiny-group")
    right = reward.score(held_out).values.flatten()
    wrong = reward.score([Sample("fire engine", sample.media) for sample in held_out]).values.flatten()
    assert (right > 0.5).float().mean() > 0.8 and wrong.mean() < 0.1


def test_a_prompt_it_does_not_know_gets_no_value(held_out):
    answer = load_reward("tiny-group").score([Sample("a portrait photo of a chef", held_out[0].media), held_out[0]])
    assert answer.values[0].isnan().all() and "captions of the embedded drawings" in answer.remarks[0]
    assert answer.values[1].isfinite().all()


def test_pixels_give_the_same_value_with_a_gradient(held_out):
    reward, sample = load_reward("tiny-group"), held_out[0]
    pixels = (to_pixels([sample.image], 64) / 2 + 0.5).requires_grad_(True)
    value = reward.score_pixels(pixels, [sample.prompt])
    value.sum().backward()
    assert value.item() == pytest.approx(reward.score([sample]).values.item(), abs=1e-4)
    assert pixels.grad.abs().sum() > 0


def test_a_folder_without_its_files_is_named(tmp_path):
    with pytest.raises(UserError, match="has no groups.json"):
        load_reward(f"emoji_group:{tmp_path}")
