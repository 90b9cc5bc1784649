"""Training that goes on from a reward: its weights and settings, other tunings, and what is refused."""

import pytest
import torch
from PIL import Image

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.joint.heads import KnownUsers
from visalign.rewards.joint.reward import build_network, save_reward
from visalign.rewards.joint.start import find_start

SAMPLES = [Sample("a red fruit", Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue")]
OWN = {"dimensions": ("alignment",), "video_only": (), "layers": (1,), "width": 16, "members": 2}


def saved(folder, tuning, **more):
    settings = JointSettings(**OWN, tuning=tuning, **more)
    torch.manual_seed(4)
    network = build_network(settings, users=KnownUsers(("u1", "u2"), 2)).eval()
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.mul_(1.01)
    save_reward(folder / "run" / "reward", network, settings, {"mean": [0.0], "std": [1.0]}, {})
    return str(folder / "run")


def values(network):
    with torch.no_grad():
        return network.eval()(**network.collate(SAMPLES))


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_training_starts_where_the_reward_is_and_saves_one_that_needs_no_other(tuning, tmp_path):
    source = saved(tmp_path, tuning)
    start = find_start(JointSettings(source=source))
    assert (start.settings.layers, start.settings.members, start.settings.tuning) == ((1,), 2, tuning)
    network = start.network()
    expected = load_reward(source).score(SAMPLES).values
    torch.testing.assert_close(values(network).mean(1), expected)
    save_reward(tmp_path / "next", network, start.settings, {"mean": [0.0], "std": [1.0]}, {})
    (tmp_path / "run").rename(tmp_path / "gone")
    torch.testing.assert_close(load_reward(str(tmp_path / "next")).score(SAMPLES).values, expected)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_frozen_start_may_be_tuned_further(tuning, tmp_path):
    source = saved(tmp_path, "frozen")
    network = find_start(JointSettings(source=source, tuning=tuning, lora_rank=4)).network()
    torch.testing.assert_close(values(network).mean(1), load_reward(source).score(SAMPLES).values)
    assert any(p.requires_grad for p in network.backbone.clip.parameters())


def test_other_sources_start_anew():
    settings = JointSettings(source="tiny-clip")
    assert find_start(settings).folder is None and find_start(settings).settings == settings
    assert find_start(JointSettings(source="tiny-reward")).folder.name == "tiny-reward"


@pytest.mark.parametrize("given, word", [
    ({"width": 32}, "model.width is 32, and the reward .* has 16; leave model.width out"),
    ({"dimensions": ("quality",), "video_only": ()}, "model.dimensions is"),
    ({"general": {}, "dimensions": ("alignment",), "video_only": ()}, "model.general is"),
    ({"tuning": "frozen"}, "model.tuning is frozen, .* has full"),
])
def test_what_says_something_else_is_refused(given, word, tmp_path):
    source = saved(tmp_path, "full")
    with pytest.raises(UserError, match=word):
        find_start(JointSettings(source=source, **given))


def test_users_of_another_training_are_not_gone_on_with(tmp_path):
    with pytest.raises(UserError, match="its head is ideal_points, which knows its own users only"):
        find_start(JointSettings(source=saved(tmp_path, "frozen", ideal_points={"prototypes": 2})))
