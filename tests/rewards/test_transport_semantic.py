"""PISCES's semantics: words matched with patches, by hand, and what does not change it."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample, Video
from visalign.rewards import build_reward, load_reward
from visalign.rewards.clip_tokens import patch_places
from visalign.rewards.transport import TransportSemantic, word_costs
from visalign.storage.open_clip_models import EMBEDDED_CLIPS

RED, BLUE = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))


class Planted:
    """One word for each letter, one patch for each number along an image's width, all of them rows of the identity."""

    name, check_tokens = "planted", lambda self, where: None
    network = SimpleNamespace(logit_scale=torch.tensor(100.0).log())
    features = pixel_features = prompt_features = None

    def patch_features(self, images):
        return torch.stack([torch.eye(4)[[image.getpixel((x, 0))[0] for x in range(image.width)]][None]
                            for image in images])

    def word_features(self, prompt):
        return torch.eye(4)[["abcd".index(letter) for letter in prompt]], None


def image(*numbers):
    drawn = Image.new("RGB", (len(numbers), 1))
    for x, number in enumerate(numbers):
        drawn.putpixel((x, 0), (number, 0, 0))
    return drawn


def score(prompt, media, **settings):
    reward = TransportSemantic(of=[Planted()], epsilon=1e-3, **settings)
    return reward.score([Sample(prompt, media)]).values.item()


def test_what_is_there_is_found_and_what_is_not_costs_by_hand():
    assert score("abcd", image(0, 1, 2, 3)) == pytest.approx(1.0, abs=1e-4)
    # c and d meet patches b and a alone: of .9, half is moved at similarity 1 and .4 at 0
    assert score("abcd", image(0, 1, 0, 1)) == pytest.approx(0.5 / 0.9, abs=1e-3)
    assert score("abcd", image(0, 1, 0, 1), mass=0.5) == pytest.approx(1.0, abs=1e-3)
    assert score("cd", image(0, 1, 0, 1)) == pytest.approx(0.0, abs=1e-4)


def test_the_order_of_words_and_patches_counts_only_where_place_and_time_do():
    clip = Video([image(0, 1), image(2, 3)], 8.0)
    turned = Video([image(3, 2), image(1, 0)], 8.0)
    for prompt in ("abcc", "ccba"):
        assert score(prompt, clip) == pytest.approx(score("abcc", turned), abs=1e-6)
    assert score("ab", image(0, 1, 0, 2)) == pytest.approx(score("ab", image(0, 0, 1, 2)), abs=1e-6)
    spread, together = score("ab", image(0, 1, 0, 2), by_place=1.0), score("ab", image(0, 0, 1, 2), by_place=1.0)
    assert spread < together - 0.01  # both see a twice, but the first one's lie apart
    first, both = Video([image(0, 0), image(1, 1)], 8.0), Video([image(0, 1), image(0, 1)], 8.0)
    assert score("ab", both) == pytest.approx(score("ab", first), abs=1e-6)
    assert score("ab", both, by_time=1.0) < score("ab", first, by_time=1.0) - 0.4


def test_costs_by_hand():
    # two frames of two patches; the word looks at both patches of kind 0, so at time .5 and at the left, (.5, .25)
    patches = torch.eye(2)[torch.tensor([[0, 1], [0, 1]])][:, None]
    cost = word_costs(torch.eye(2)[:1], patches, 1e4, by_time=0.2, by_place=0.4)
    # .2 |.5 - t| = .1 everywhere; the patches of kind 1 cost 1 more, and .4 (.25 - .75)^2 = .1
    torch.testing.assert_close(cost, torch.tensor([[0.1, 1.2, 0.1, 1.2]], dtype=torch.float64))
    when, where = patch_places(1, 2, 2)
    assert when.tolist() == [0, 0, 1, 1] and where.tolist() == [[0.5, 0.25], [0.5, 0.75]] * 2
    assert patch_places(1, 1, 1)[0].tolist() == [0]


def test_words_and_patches_of_a_clip_model_lie_among_its_features():
    clip = load_reward("tiny-clip")
    words, note = clip.word_features("a red fruit")
    assert words.shape == (4, 128) and note is None  # a, red, fruit and the end
    torch.testing.assert_close(words[-1], clip.text_features(["a red fruit"])[0])
    patches = clip.patch_features([RED, BLUE])
    assert patches.shape == (2, 8, 8, 128)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(2, 8, 8))
    visual, seen = clip.network.visual, {}
    hook = visual.ln_post.register_forward_hook(lambda *given: seen.update(tokens=given[2]))
    clip.features([RED, BLUE])
    hook.remove()
    torch.testing.assert_close(patches.flatten(1, 2), F.normalize(seen["tokens"][:, 1:] @ visual.proj, dim=-1))
    assert "cut to the model's 16 tokens" in clip.word_features("red " * 30)[1]


def test_it_scores_images_and_videos_each_by_itself():
    reward = load_reward({"kind": "transport_semantic", "of": "tiny-clip"})
    samples = [Sample("a red fruit", RED), Sample("red " * 30, Video([RED, BLUE, RED], 8.0)), Sample("", RED)]
    found = reward.score(samples)
    assert found.values[:2].isfinite().all() and found.remarks[2] == "no prompt" and "cut" in found.remarks[1]
    assert torch.equal(reward.score(samples[1:2]).values, found.values[1:2])
    still = reward.score([Sample("a red fruit", Video([RED] * 3, 8.0))]).values
    torch.testing.assert_close(still, found.values[:1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("changed, message", [
    ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, "has no patches among its features; take a CLIP model with a vision"),
    ({"vision_cfg": {"timm_model_name": "vit"}}, "has no patches among its features"),
    ({"custom_text": True}, "has no words among its features")])
def test_models_without_such_tokens_are_refused_before_anything_is_loaded(changed, message, tmp_path):
    folder = shutil.copytree(EMBEDDED_CLIPS["tiny-clip"], tmp_path / "clip")
    file = folder / "open_clip_config.json"
    settings = json.loads(file.read_text())
    settings["model_cfg"] |= changed
    file.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        build_reward({"kind": "transport_semantic", "of": f"clip:{folder}"}).check()


def test_other_mistakes_are_named():
    for given, message in (({"of": "jpeg"}, "has no features of images"), ({"of": ["tiny-clip", "jpeg"]}, "found 2"),
                           ({"of": "hpsv2"}, "hpsv2 has no features of words and patches"), ({"mass": 0}, "mass"),
                           ({"epsilon": 0}, "epsilon"), ({"by_time": -1}, "by_time")):
        with pytest.raises(UserError, match=message):
            load_reward({"kind": "transport_semantic", "of": "tiny-clip"} | given)
