"""Views of one object: by hand, a clip with one bad side, and what is refused."""

import pytest
import torch
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample, Video
from visalign.rewards import build_reward, for_modality, load_reward
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.views import Views, mutual_cosine


class Planted(RewardModel):
    """An image's red is its reward, and its features are one axis for green and another for everything else."""

    def score_batch(self, samples):
        return torch.tensor([[self.red(sample.image)] for sample in samples])

    def red(self, image):
        return image.getpixel((0, 0))[0] / 100

    def features(self, images):
        return torch.stack([torch.eye(2)[int(image.getpixel((0, 0))[1] > 0)] for image in images])


class Picky(Planted):
    def score_batch(self, samples):
        values = super().score_batch(samples)
        return Scores(torch.where(values > 0.25, torch.nan, values), {0: "too red"})


class Costs(Planted):
    higher_is_better = False


def clip(*colours, prompt=""):
    return Sample(prompt, Video([Image.new("RGB", (8, 8), colour) for colour in colours], 8.0))


GOOD, BAD, OTHER = (90, 0, 0), (10, 0, 0), (90, 200, 0)


def test_one_bad_side_in_four_by_hand():
    reward = Views(of=[Planted()])
    found = reward.score([clip(GOOD, GOOD, GOOD, GOOD), clip(GOOD, BAD, GOOD, GOOD), clip(GOOD, GOOD, OTHER, GOOD)])
    # (3 .9 + .1) / 4 = .7; one of four features at right angles leaves 3 of the 6 pairs alike
    torch.testing.assert_close(found.values, torch.tensor([[0.9, 0.9, 1.0], [0.7, 0.1, 1.0], [0.9, 0.9, 0.5]]))
    assert reward.dimensions == ("mean", "min", "consistency")


def test_all_pairs_count_and_not_neighbours_alone():
    turned = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    assert mutual_cosine(turned).item() == pytest.approx((0.6 + 0.8 + 0.0) / 3)
    assert mutual_cosine(turned).item() == pytest.approx(mutual_cosine(turned[[2, 0, 1]]).item())


def test_so_many_views_are_taken_from_first_to_last():
    # of five frames the 1st, 3rd and 5th: (.9 + .1 + .9) / 3
    found = Views(of=[Planted()], views=3).score([clip(GOOD, OTHER, BAD, OTHER, GOOD)]).values
    torch.testing.assert_close(found, torch.tensor([[1.9 / 3, 0.1, 1.0]]))


def test_where_a_lower_value_is_better_the_worst_view_is_the_highest():
    torch.testing.assert_close(Views(of=[Costs()]).score([clip(GOOD, BAD)]).values, torch.tensor([[-0.5, -0.9, 1.0]]))


def test_a_view_without_a_score_leaves_the_clip_without_mean_and_min():
    found = Views(of=[Picky()]).score([clip(GOOD, BAD)])
    assert found.values[0, :2].isnan().all() and found.values[0, 2] == 1.0 and found.remarks == {0: "too red"}


def test_mean_and_min_are_those_of_frames_and_the_clip_model_finds_the_odd_one():
    same, odd = clip("red", "red", "red", prompt="a red fruit"), clip("red", "blue", "red", prompt="a red fruit")
    reward = load_reward({"kind": "views", "of": "tiny-clip"})
    found = reward.score([same, odd]).values
    for column, pool in enumerate(("mean", "min")):
        frames = load_reward({"kind": "frames", "of": "tiny-clip", "pool": pool}).score([same, odd]).values
        assert torch.equal(found[:, column:column + 1], frames)
    red, _, blue = load_reward("tiny-clip").features([image for image in [
        *same.frames(1), same.frames(1)[0], odd.frames(3)[1]]])
    # two of the three pairs are of red and blue
    torch.testing.assert_close(found[:, 2], torch.stack([torch.tensor(1.0), (1 + 2 * red @ blue) / 3]))
    assert found[1, 2] < 0.95
    other = load_reward({"kind": "views", "of": "sharpness", "features": "tiny-clip"}).score([same, odd]).values
    assert torch.equal(other[:, 2], found[:, 2])


def test_images_are_refused_in_one_sentence():
    reward = load_reward({"kind": "views", "of": "tiny-clip"})
    found = reward.score([Sample("a", Image.new("RGB", (8, 8))), clip("red", prompt="a"), clip("red", "red")])
    assert found.values.isnan().all() and found.remarks == {
        0: "scores videos only, this is an image", 1: "1 frame, at least 2 are needed to be views of one object",
        2: "no prompt"}
    with pytest.raises(UserError, match="views: scores videos only, and this model makes images"):
        for_modality(reward, "image")


@pytest.mark.parametrize("given, message", [
    ({"of": ["tiny-clip", "sharpness"]}, "of must name one reward of images, found 2"), ({}, "found 0"),
    ({"of": "motion"}, "motion does not score an image by itself"),
    ({"of": "brevity"}, "brevity does not score an image by itself"),
    ({"of": "sharpness"}, "sharpness has no features to say how alike views are; set features to"),
    ({"of": "tiny-reward"}, "has the dimensions alignment, quality, motion, and one is expected"),
    ({"of": "tiny-clip", "views": 1}, "views"),
    ({"of": "tiny-clip", "features": "nowhere"}, "nowhere is neither a folder")])
def test_mistakes_are_named_before_anything_is_loaded(given, message):
    with pytest.raises(UserError, match=message):
        build_reward({"kind": "views"} | given).check()


def test_a_reward_of_whole_groups_is_not_one_of_views():
    grouped = Planted()
    grouped.needs_group = True
    with pytest.raises(ValueError, match="does not score an image by itself"):
        Views(of=[grouped])
