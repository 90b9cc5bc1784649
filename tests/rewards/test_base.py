"""What all rewards share: refusals, NaN with reasons, batches that shrink, specifications."""

from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample, Video
from visalign.rewards import RewardModel, Scores, finite_scores, load_reward
from visalign.rewards.registry import ALIASES, REWARDS, describe_rewards

IMAGE = Image.new("RGB", (4, 4), "red")


@dataclass
class Length(RewardModel):
    """Length of the prompt; out of memory above `room` samples; 'nan' cannot be scored."""

    room: int = 100
    needs_prompt = True

    def __post_init__(self):
        super().__post_init__()
        self.calls = []

    def score_batch(self, samples):
        self.calls.append(len(samples))
        if len(samples) > self.room:
            raise torch.OutOfMemoryError("no room")
        return torch.tensor([[float("nan") if s.prompt == "nan" else float(len(s.prompt))] for s in samples])


def test_samples_that_cannot_be_scored_are_nan_with_a_reason_and_the_rest_is_in_order():
    answer = Length(batch_size=2).score(
        [
            Sample("a", IMAGE),
            Sample("", IMAGE),
            Sample("nan", IMAGE),
            Sample("x", Video([IMAGE], 1.0)),
            Sample("abc", IMAGE),
        ]
    )
    assert answer.values.flatten().isnan().tolist() == [False, True, True, True, False]
    assert answer.values[0] == 1 and answer.values[4] == 3
    assert answer.remarks == {
        1: "no prompt",
        2: "the reward is not a finite number",
        3: "scores images only, this is a video",
    }


def test_batches_are_halved_until_they_fit():
    reward = Length(room=3)
    assert reward.score([Sample("ab", IMAGE)] * 10).values.flatten().tolist() == [2.0] * 10
    assert reward.calls == [10, 5, 2, 3, 5, 2, 3]


def test_a_single_sample_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        Length(room=0).score([Sample("a", IMAGE)])


def test_no_samples_give_no_scores():
    assert Length().score([]).values.shape == (0, 1)


def test_finite_scores_name_the_prompt_and_the_reason_and_turn_lower_is_better():
    with pytest.raises(UserError, match="1 of 2.*'nan'.*not a finite number"):
        finite_scores(Length(), [Sample("a", IMAGE), Sample("nan", IMAGE)])
    reward = Length()
    reward.higher_is_better = False
    assert finite_scores(reward, [Sample("ab", IMAGE)]).tolist() == [-2.0]


def test_networks_load_on_first_use_and_move():
    reward = load_reward("tiny-clip")
    assert reward._network is None
    reward.score([Sample("a red fruit", IMAGE)])
    reward.to("cpu")
    assert next(reward.network.parameters()).device.type == "cpu"


def test_every_reward_has_a_line_a_modality_and_a_docstring():
    rows = {name: line for name, _, line in describe_rewards()}
    assert rows.keys() == REWARDS.keys() | ALIASES.keys() and all(len(line) > 20 for line in rows.values())
    for kind in REWARDS.values():
        assert kind.modalities <= {"image", "video", "text"} and kind.modalities


@pytest.mark.parametrize(
    "spec, word",
    [
        ("tiny-clp", "tiny-clip"),
        ({"kind": "clp"}, "clip"),
        ({"kind": "weighted_sum", "of": []}, "empty"),
        ({"kind": "weighted_sum", "of": ["nothing"]}, "nothing"),
        ("clip:/nowhere", "/nowhere"),
        ("nowhere.yaml", "no such file"),
        (3, "expected a name"),
        ("pickscore:/nowhere", "/nowhere"),
        ({"kind": "joint", "source": "/nowhere"}, "reward.json"),
        ({"kind": "clip", "source": "tiny-clip", "scale": "log"}, "scale"),
        ({"kind": "clip", "source": "ViT-B-32/opnai"}, "openai"),
        ({"kind": "vlm"}, "exactly one of url"),
        ({"kind": "vlm", "url": "ftp://x"}, "http"),
        ({"kind": "vlm", "url": "http://me:secret@x/v1"}, "password"),
        ("hpsv3", "template"), ("aesthetic:/nowhere.pth", "/nowhere"),
        ("imagereward:/nowhere", "/nowhere"),
    ],
)
def test_wrong_specifications_end_in_a_sentence_before_anything_is_loaded(spec, word):
    with pytest.raises(UserError, match=word) as caught:
        load_reward(spec)
    assert "secret" not in str(caught.value)


def test_yaml_files_and_folders_are_specifications(tmp_path):
    (tmp_path / "mine.yaml").write_text("kind: clip\nsource: tiny-clip\nscale: percent\n")
    mine, plain = load_reward(str(tmp_path / "mine.yaml")), load_reward("tiny-clip")
    sample = [Sample("a red fruit", IMAGE)]
    assert mine.name == "mine" and mine.score_range == (-100.0, 100.0)
    torch.testing.assert_close(mine.score(sample).values, 100 * plain.score(sample).values)
    assert load_reward(str(ALIASES["tiny-clip"]["source"])).name == "tiny-clip"
    with pytest.raises(UserError, match="reward.json"):
        load_reward(str(tmp_path))


def test_scores_carry_spread_through_batches():
    @dataclass
    class Unsure(Length):
        def score_batch(self, samples):
            return Scores(super().score_batch(samples), spread=torch.full((len(samples), 1), 0.5))

    assert Unsure(batch_size=2).score([Sample("a", IMAGE)] * 3).spread.flatten().tolist() == [0.5] * 3
