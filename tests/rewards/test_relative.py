"""The relative reward: its value by hand, swapped words, k on its line, and its gradient."""

import pytest
import torch
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import build_reward, load_reward
from visalign.rewards.relative import Branches, Relative

SPEC = {"kind": "relative", "of": "tiny-clip", "good": "yellow", "bad": "blue", "k": 0.1}


class Planted:
    """Features that are the pixels' means, and three texts."""

    name = "planted"
    texts = {"good. p": [0.6, 0.8, 0.0], "bad. p": [0.0, 1.0, 0.0], "same. p": [1.0, 0.0, 0.0]}

    def features(self, images):
        raise AssertionError("not asked for")

    def pixel_features(self, pixels):
        return pixels.mean((2, 3))

    def prompt_features(self, prompts):
        return torch.tensor([self.texts[prompt] for prompt in prompts]), [None] * len(prompts)


def pixels(*rgb):
    return torch.tensor(rgb)[None, :, None, None].expand(1, 3, 2, 2).clone().requires_grad_(True)


def branch(noise, swapped):
    return Branches(torch.tensor([noise]), torch.tensor([swapped]))


def test_the_value_by_hand_and_with_the_words_swapped():
    reward, x = Relative(of=[Planted()], good="good", bad="bad", k=0.5), pixels(0.2, 0.1, 0.7)
    # 1.5 (.12 + .08) - .1 = .2; swapped: 1.5 .1 - .2 = -.05
    assert reward.score_pixels(x, ["p"]).item() == pytest.approx(0.2)
    assert reward.score_branches(x, ["p"], branch(0.3, True)).item() == pytest.approx(-0.05)


def test_k_lies_on_its_line_from_clean_to_noisy():
    reward, x = Relative(of=[Planted()], good="good", bad="bad", k=(0.1, 0.3), k_swapped=(0.4, 0.0)), pixels(1., 1., 1.)
    # good 1.4, bad 1: at clean (1.1) 1.4 - 1 = .54; at .5 1.2 1.4 - 1 = .68; swapped at .5: 1.2 1 - 1.4 = -.2
    assert reward.score_pixels(x, ["p"]).item() == pytest.approx(0.54)
    assert reward.score_branches(x, ["p"], branch(0.5, False)).item() == pytest.approx(0.68)
    assert reward.score_branches(x, ["p"], branch(0.5, True)).item() == pytest.approx(-0.2)
    assert reward.score_range == (-2.4, 2.4)


def pushes(reward):
    """dr/dv by each branch of t .7 and d .1, where features are x0 itself: -d/(1-t+d) and d/(1-t-d) times dr/dx0."""
    x, found = pixels(0.2, 0.1, 0.7), []
    for swapped, by in ((False, -0.1 / 0.4), (True, 0.1 / 0.2)):
        value = reward.score_branches(x, ["p"], branch(0.7, swapped))
        found.append(by * torch.autograd.grad(value.sum(), x)[0].sum((0, 2, 3)))
    return found


def test_swapped_words_push_the_velocity_the_same_way():
    one, other = pushes(Relative(of=[Planted()], good="good", bad="bad", k=0.0))
    assert torch.cosine_similarity(one, other, dim=0).item() == pytest.approx(1)
    torch.testing.assert_close(one * 2, other)  # the branch to more noise has half of the signal: .2 for .4


def test_what_is_liked_whatever_the_text_cancels():
    planted = Planted()
    planted.texts = {"good. p": [1.0, 0.0, 0.0], "bad. p": [1.0, 0.0, 0.0]}
    one, other = pushes(Relative(of=[planted], good="good", bad="bad", k=0.2))
    torch.testing.assert_close(one * 2, -other)


def test_an_image_scores_as_its_pixels_and_as_its_two_texts():
    reward, clip, image = load_reward(SPEC), load_reward("tiny-clip"), Image.new("RGB", (64, 64), "yellow")
    found = reward.score([Sample("a heart", image)]).values
    texts = [clip.score([Sample(f"{word}. a heart", image)]).values for word in ("yellow", "blue")]
    torch.testing.assert_close(found, 1.1 * texts[0] - texts[1])
    red, green, _ = (torch.full((64, 64), value) for value in (1.0, 1.0, 0.0))
    x = torch.stack([red, green, torch.zeros(64, 64)])[None]
    torch.testing.assert_close(reward.score_pixels(x, ["a heart"]), found, atol=2e-4, rtol=0)
    assert "relative" in reward.dimensions and reward.needs_prompt
    assert reward.score([Sample("", image)]).remarks == {0: "no prompt"}


@pytest.mark.parametrize("given, message", [
    ({"good": ""}, "good is missing; name a word"), ({"bad": " "}, "bad is missing"),
    ({"bad": "yellow "}, "good and bad are both 'yellow'"), ({"of": "jpeg"}, "jpeg has no features of images"),
    ({"of": ["tiny-clip", "tiny-clip"]}, "of must name one reward, found 2"), ({"k": -1}, "k"), ({"k": [0.1]}, "k"),
    ({"kk": 1}, "unknown key kk")])
def test_mistakes_are_named(given, message):
    with pytest.raises(UserError, match=message):
        build_reward(SPEC | given)
