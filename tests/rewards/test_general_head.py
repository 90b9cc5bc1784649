"""The head of the general preference model: embeddings, folders, comparing, and cycles that no number can say."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.objectives.general import GeneralPreferenceLoss, preference_score
from visalign.objectives.reward_model import Comparison, RewardModelLoss
from visalign.rewards import load_reward
from visalign.rewards.joint.general import GeneralPreference
from visalign.rewards.joint.heads import Heads
from visalign.rewards.joint.reward import build_network, save_reward
from visalign.rewards.pairwise import Failure, PairReward

BACKBONE = SimpleNamespace(features=6, prompt=slice(1, 4))
ONE = {"dimensions": ("quality",), "video_only": ()}
SAMPLES = [Sample("a red fruit", Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue", "green")]


def head(members=2, **settings):
    torch.manual_seed(0)
    return GeneralPreference.of(JointSettings(**ONE, members=members, width=16, general=settings), BACKBONE)


def test_embeddings_have_unit_length_over_the_root_of_tau():
    for tau in (0.1, 1.0):
        found = head(blocks=3, tau=tau)(torch.randn(4, 1, 6))
        assert found.shape == (4, 2, 1, 6)
        torch.testing.assert_close(found.norm(dim=-1), torch.full((4, 2, 1), tau**-0.5))


def test_without_prompt_weights_blocks_count_one_and_with_them_the_prompt_s_softmax():
    plain, weighed = head(blocks=2, tau=1.0), head(blocks=2, tau=1.0, prompt_weights=True)
    weighed.embed.load_state_dict(plain.embed.state_dict())
    features = torch.randn(2, 1, 6)
    features[1, 0, 1:4] = features[0, 0, 1:4]  # one prompt
    a, b = plain(features)
    blocks = a[..., 0::2] * b[..., 1::2] - a[..., 1::2] * b[..., 0::2]
    weights = weighed.weigh(features[..., 1:4]).softmax(-1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 1))
    torch.testing.assert_close(preference_score(*weighed(features)), (weights[0] * blocks).sum(-1))
    torch.testing.assert_close(preference_score(a, b), blocks.sum(-1))


def learn(module, objective):
    """Train a head on rock, paper, scissors with noise; the share of 600 fresh pairs that it orders rightly."""
    rng = torch.Generator().manual_seed(1)
    styles = torch.randn(3, 6, generator=rng)

    def pairs(count):
        kinds = torch.randint(3, (count,), generator=rng)
        beaten = (kinds + 1) % 3  # 0 beats 1 beats 2 beats 0
        return tuple((styles[k] + 0.1 * torch.randn(count, 6, generator=rng))[:, None] for k in (kinds, beaten))

    optimizer, nothing = torch.optim.Adam(module.parameters(), 1e-2), torch.full((64, 1), math.nan)
    for _ in range(150):
        a, b = map(module, pairs(64))
        loss = objective(Comparison(a, b, torch.ones(64, 1), torch.ones(64), nothing, nothing)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        a, b = map(module, pairs(600))
        return (objective.margins(a, b).mean(1) > 0).float().mean().item()


def test_rock_paper_scissors_is_learnt_where_a_number_for_each_gets_two_of_three_at_most():
    torch.manual_seed(0)
    assert learn(head(blocks=1), GeneralPreferenceLoss()) == 1.0
    scalar = learn(Heads(6, 1, 2, 16), RewardModelLoss())
    assert scalar < 0.71  # three kinds in any order: 2/3, and chance


@pytest.fixture
def folder(tmp_path):
    settings = JointSettings(**ONE, width=16, members=2, general={"blocks": 2, "prompt_weights": True})
    torch.manual_seed(2)
    network = build_network(settings).eval()
    save_reward(tmp_path / "r", network, settings, {}, {})
    return tmp_path / "r"


def test_a_saved_reward_compares_by_its_folder_alone(folder):
    reward = load_reward(str(folder))
    assert isinstance(reward, PairReward) and reward.needs_group and not hasattr(reward, "score_pixels")
    a, b, c = SAMPLES
    there, back, same = reward.compare([(a, b), (b, a), (c, c)])
    assert there + back == pytest.approx(1, abs=1e-6) and same == pytest.approx(0.5) and abs(there - 0.5) > 1e-3
    with torch.no_grad():
        e = reward.network(**reward.network.collate(SAMPLES))[:, :, 0]
    chances = preference_score(e[:, None], e[None]).sigmoid().mean(-1)
    assert there == pytest.approx(chances[0, 1].item(), abs=1e-5)
    values = reward.score([*SAMPLES, Sample("alone", SAMPLES[0].media)])
    expected = [(chances[i].sum() - 0.5).item() / 2 for i in range(3)]  # the other two
    assert values.values[:3, 0].tolist() == pytest.approx(expected, abs=1e-5)
    assert values.values[3].isnan().all() and "nothing to compare" in values.remarks[3]


def test_a_sample_that_cannot_be_looked_at_is_a_failure(folder):
    a, b, _ = SAMPLES
    wordless, usable = load_reward(str(folder)).compare([(Sample(" ", a.media), b), (a, b)])
    assert wordless == Failure("no prompt") and 0 < usable < 1


def test_a_reward_that_compares_is_none_that_gives_numbers(folder):
    with pytest.raises(UserError, match="its head is general, which is a reward of kind joint_pairs"):
        load_reward({"kind": "joint", "source": str(folder)})
    with pytest.raises(UserError, match="its head is scalar, which is a reward of kind joint"):
        load_reward({"kind": "joint_pairs", "source": "visalign/assets/tiny-reward"})
    assert json.loads((folder / "reward.json").read_text())["standard"] == {}


@pytest.mark.parametrize("settings, word", [
    ({"general": {}}, "in one dimension, and model.dimensions has 4"),
    (ONE | {"general": {"prompt_weights": True}, "backbone": "vlm", "source": "x/y"}, "reads the prompt by itself"),
    (ONE | {"general": {"tau": 0.0}}, "tau"),
])
def test_impossible_heads_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        JointSettings(**settings)
