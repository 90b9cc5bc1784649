"""lambda-Harmonic by hand, and how alike an image is to photographs."""

from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image, ImageDraw

from visalign.errors import UserError
from visalign.media.photographs import read_photographs
from visalign.media.samples import Sample, Video
from visalign.rewards import REWARDS, RewardModel, Scores, build_reward, for_modality, load_reward
from visalign.rewards.harmonic import Harmonic, in_unit, without_word

IMAGE = Image.new("RGB", (8, 8), "red")
SIMILARITY = {"kind": "reference_similarity", "images": "emoji:subject", "features": "tiny-clip"}


@dataclass
class Said(RewardModel):
    """A value that the sample carries, with ends."""

    low: float = -1.0
    high: float = 1.0
    lower: bool = False
    needs_prompt = True

    def __post_init__(self):
        super().__post_init__()
        self.score_range, self.higher_is_better = (self.low, self.high), not self.lower

    def score_batch(self, samples):
        self.prompts = [sample.prompt for sample in samples]
        return Scores(torch.tensor([[float(sample.known[self.name])] for sample in samples]))


def harmonic(weight, **settings):
    return Harmonic(of=[Said(name="fit"), Said(name="like")], similarity_weight=weight, **settings)


def score(reward, **known):
    return reward.score([Sample("a sks dog", IMAGE, known=known)]).values.item()


@pytest.mark.parametrize("weight, expected", [(0, 0.65), (0.3, 0.709091), (0.5, 0.754839), (1, 0.9)])
def test_by_hand(weight, expected):
    assert score(harmonic(weight), fit=0.3, like=0.8) == pytest.approx(expected, abs=1e-6)


def test_it_is_at_most_the_arithmetic_mean_and_falls_with_either():
    torch.manual_seed(0)
    for fit, like, weight in (2 * torch.rand(200, 3) - 1).tolist():
        weight = (weight + 1) / 2
        mean = weight * (1 + like) / 2 + (1 - weight) * (1 + fit) / 2
        assert 0 <= score(harmonic(weight), fit=fit, like=like) <= mean + 1e-6
    assert score(harmonic(0.5), fit=-1.0, like=1.0) == pytest.approx(0, abs=1e-7)
    assert score(harmonic(0.5), fit=0.4, like=0.4) == pytest.approx(0.7)


def test_each_reward_is_mapped_from_its_own_range():
    parts = [Said(name="fit", low=0, high=10), Said(name="like", low=0, high=4, lower=True)]
    # 7 of 10 and, lower being better, 1 of 4: .7 and .75
    assert score(Harmonic(of=parts, similarity_weight=0), fit=7, like=1) == pytest.approx(0.7)
    assert score(Harmonic(of=parts, similarity_weight=1), fit=7, like=1) == pytest.approx(0.75)


def test_the_word_for_the_subject_is_taken_from_prompts():
    assert without_word("a photo of sks dog, sks.", "sks") == "a photo of dog,"
    assert without_word("a  sksy dog", "sks") == "a sksy dog" and without_word("a  dog", "") == "a  dog"
    reward = harmonic(0.5, token="sks")
    score(reward, fit=0.1, like=0.1)
    assert reward.inner[0].prompts == ["a dog"]
    nothing = reward.score([Sample("sks", IMAGE, known={"fit": 1, "like": 1})])
    assert nothing.values.isnan().all() and "no prompt" in nothing.remarks[0]


def test_what_it_cannot_combine():
    with pytest.raises(ValueError, match="must be two rewards"):
        Harmonic(of=[Said(name="fit")])
    with pytest.raises(UserError, match="similarity_weight"):
        build_reward({"kind": "harmonic", "similarity_weight": 2, "of": ["tiny-clip", "contrast"]})
    with pytest.raises(UserError, match="colourfulness has no lowest or no highest"):
        build_reward({"kind": "harmonic", "of": ["tiny-clip", "colourfulness"]})
    with pytest.raises(UserError, match="tiny-reward has the dimensions"):
        build_reward({"kind": "harmonic", "of": ["tiny-clip", "tiny-reward"]})
    assert in_unit(build_reward("tiny-clip"), torch.tensor([-1.0, 0.3, 1.0])).tolist() == pytest.approx([0, 0.65, 1])


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in (10, 2):
        image = Image.new("RGB", (32, 24), "white")
        ImageDraw.Draw(image).ellipse((4, 4, 8 + number, 20), fill="orange")
        image.save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no photograph")
    return folder


def test_similarity_is_the_mean_over_the_photographs(photographs):
    images = read_photographs(str(photographs), "here")
    assert [name.rsplit("/", 1)[1] for name in images] == ["2.png", "10.png"]
    clip = load_reward("tiny-clip")
    features = clip.features([*images.values(), IMAGE])
    expected = (1 + (features[2] @ features[:2].T).mean()) / 2
    for given in (str(photographs), list(images)):
        reward = load_reward(SIMILARITY | {"images": given})
        assert reward.score([Sample("", IMAGE)]).values.item() == pytest.approx(expected.item(), abs=1e-6)
    alone = load_reward(SIMILARITY | {"images": [next(iter(images))]})
    assert alone.score([Sample("", next(iter(images.values())))]).values.item() == pytest.approx(1, abs=1e-6)


def test_the_embedded_subject_is_like_itself_and_a_video_is_the_mean_of_its_frames():
    reward, frames = load_reward(SIMILARITY), list(read_photographs("emoji:subject", "here").values())
    assert len({image.tobytes() for image in frames}) == 4
    own, other = reward.score([Sample("", frames[0]), Sample("", IMAGE)]).values.flatten().tolist()
    assert 0 <= other < own <= 1
    red = IMAGE.resize(frames[0].size)
    each = reward.score([Sample("", image) for image in (frames[0], red)]).values
    of_video = for_modality(reward, "video").score([Sample("", Video([frames[0], red], 8.0))]).values
    assert of_video.item() == pytest.approx(each.mean().item(), abs=1e-6)


def test_photographs_that_are_not_there_or_cannot_be_read(photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    (photographs / "11.png").write_bytes(b"no image")
    for given, said in ((str(tmp_path / "none"), "there is no such folder"),
                        (str(tmp_path / "empty"), "holds no image"), (str(photographs), "11.png"),
                        ([str(tmp_path / "gone.png")], "gone.png")):
        with pytest.raises(UserError, match=said):
            load_reward(SIMILARITY | {"images": given})
    with pytest.raises(UserError, match="images is missing"):
        build_reward({"kind": "reference_similarity", "features": "tiny-clip"})
    with pytest.raises(UserError, match="neither a folder, nor ARCHITECTURE/TAG"):
        load_reward(SIMILARITY | {"features": "tiny-clop"})


def test_it_has_its_name_in_the_registry_and_takes_its_photographs_after_a_colon():
    assert REWARDS["harmonic"] is Harmonic
    assert replace(build_reward("reference_similarity:emoji:subject")).images == "emoji:subject"
