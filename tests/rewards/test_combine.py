"""Combinations against hand checks, with rewards whose values are written in the samples."""

import math
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import RewardModel, Scores, combine, load_reward

IMAGE = Image.new("RGB", (4, 4), "red")


@dataclass
class Known(RewardModel):
    """Reads its value (and spread) from what is known of the sample."""

    lower: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.higher_is_better = not self.lower

    def score_batch(self, samples):
        values = torch.tensor([[float(s.known[self.name])] for s in samples])
        spread = torch.tensor([[float(s.known.get(f"{self.name}_spread", math.nan))] for s in samples])
        return Scores(values, spread=spread)


def sample(prompt="p", **known):
    return Sample(prompt, IMAGE, known=known)


def rewards(*names, lower=()):
    return [Known(name=name, lower=name in lower) for name in names]


@pytest.fixture
def reference(tmp_path):
    """Base samples: a has mean 2 and std 2, b mean 10 and std 1 (n - 1); prompt p holds two of the three rows."""
    file = tmp_path / "base.parquet"
    pq.write_table(
        pa.table({"prompt": ["p", "p", "q"], "a.score": [0.0, 2.0, 4.0], "b.score": [9.0, 10.0, 11.0]}), file
    )
    return str(file)


def test_weighted_sum_standardises_first(reference):
    reward = combine.WeightedSum(of=rewards("a", "b"), reference=reference, weights={"a": 1.0, "b": 0.5})
    # (4 - 2) / 2 + 0.5 (8 - 10) / 1 = 0
    assert reward.score([sample(a=4, b=8)]).values.item() == pytest.approx(0.0)
    plain = combine.WeightedSum(of=rewards("a", "b"), standardised=False, weights={"a": 1.0, "b": 0.5})
    assert plain.score([sample(a=4, b=8)]).values.item() == pytest.approx(8.0)


def test_lower_is_better_is_turned_before_it_is_summed():
    reward = combine.WeightedSum(of=rewards("a", "b", lower=("b",)), standardised=False)
    assert reward.score([sample(a=4, b=1)]).values.item() == pytest.approx(3.0)


def test_log_sigmoid_centres_on_the_prompts_quantile_and_acts_like_and(reference):
    reward = combine.LogSigmoid(of=rewards("a", "b"), reference=reference)
    # medians of p: a 1 -> (x - 1) / 2, b 9.5 -> x - 9.5, both in reference units
    value = reward.score([sample(a=1, b=9.5)]).values.item()
    assert value == pytest.approx(2 * math.log(0.5), abs=1e-6)
    high_a, low_b = reward.score([sample(a=9, b=7), sample(a=11, b=7)]).values.flatten().tolist()
    raised_b = reward.score([sample(a=9, b=8)]).values.item()
    assert raised_b - high_a > 20 * (low_b - high_a) > 0  # one unit more of the low one is worth far more


def test_par_is_the_mean_sigmoid_over_references(reference):
    reward = combine.PAR(of=rewards("a"), reference=reference)
    # references of p in units of std 2 around 2: -1 and 0; a = 2 is 0
    expected = (1 / (1 + math.exp(-1)) + 0.5) / 2
    assert reward.score([sample(a=2)]).values.item() == pytest.approx(expected, abs=1e-6)


def test_a_prompt_without_reference_is_nan_with_that_reason(reference):
    answer = combine.PAR(of=rewards("a"), reference=reference).score([sample("unseen", a=2)])
    assert answer.values.isnan().all() and "no sample of this prompt" in answer.remarks[0]


def test_ensembles_mean_worst_case_and_uncertainty_weighted():
    # values 1, 2, 3: variance 2/3
    for mode, expected in (("mean", 2.0), ("wco", 1.0), ("uwo", 2.0 - 0.3 * 2 / 3)):
        reward = combine.Ensemble(of=rewards("a", "b", "c"), mode=mode, penalty=0.3)
        assert reward.score([sample(a=1, b=2, c=3)]).values.item() == pytest.approx(expected, abs=1e-6)


def test_uncertainty_weight_hand_number_and_its_refusal_without_spread():
    reward = combine.UncertaintyWeight(of=rewards("a"))
    # exp(-0.5) 2 - 0.5 = 0.713061
    answer = reward.score([sample(a=2, a_spread=0.5), sample(a=2)])
    assert answer.values[0].item() == pytest.approx(0.713061, abs=1e-5)
    assert answer.values[1].isnan() and "reports no spread" in answer.remarks[1]


def test_gate_opens_at_the_threshold():
    reward = combine.GatedReward(of=rewards("a", "b"), threshold=0.5, otherwise=-1.0)
    values = reward.score([sample(a=0.5, b=3), sample(a=0.4, b=3), sample(a=math.nan, b=3)]).values.flatten()
    assert values[:2].tolist() == [3.0, -1.0] and values[2].isnan()


def test_direction_is_a_unit_vector_and_ignores_what_it_does_not_weigh():
    reward = combine.Direction(of=rewards("a", "b", "c"), weights={"a": 3.0, "b": 4.0})
    answer = reward.score([sample(a=1, b=2, c=math.nan, a_spread=1, b_spread=0, c_spread=0)])
    assert answer.values.item() == pytest.approx((3 * 1 + 4 * 2) / 5) and answer.spread.item() == pytest.approx(0.6)


def test_a_missing_inner_value_is_nan_with_the_inner_reason():
    reward = combine.WeightedSum(of=rewards("a", "b"), standardised=False)
    answer = reward.score([sample(a=1, b=math.nan)])
    assert answer.values.isnan().all() and answer.remarks[0] == "b: the reward is not a finite number"


def test_zero_variance_and_missing_columns_are_named(tmp_path):
    pq.write_table(pa.table({"prompt": ["p", "p"], "a.score": [3.0, 3.0]}), tmp_path / "r.parquet")
    with pytest.raises(UserError, match="a.score is the same for all samples"):
        combine.WeightedSum(of=rewards("a"), reference=str(tmp_path / "r.parquet")).check()
    with pytest.raises(UserError, match="no column b.score"):
        combine.WeightedSum(of=rewards("b"), reference=str(tmp_path / "r.parquet")).check()
    with pytest.raises(UserError, match="set reference"):
        combine.PAR(of=rewards("a")).check()
    (tmp_path / "bad.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match="not a readable parquet"):
        combine.PAR(of=rewards("a"), reference=str(tmp_path / "bad.parquet")).check()


@pytest.mark.parametrize(
    "build, word",
    [
        (lambda: combine.Direction(of=rewards("a"), weights={}), "all 0"),
        (lambda: combine.Direction(of=rewards("a"), weights={"x": 1.0}), "names no column"),
        (lambda: combine.GatedReward(of=rewards("a")), "two rewards"),
        (lambda: combine.UncertaintyWeight(of=rewards("a", "b")), "one dimension"),
        (lambda: combine.Ensemble(of=rewards("a"), penalty=-1), "penalty"),
        (lambda: combine.LogSigmoid(of=rewards("a"), quantile=2), "quantile"),
    ],
)
def test_impossible_combinations_are_refused(build, word):
    with pytest.raises(ValueError, match=word):
        build()


def test_combinations_nest_in_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("""
kind: gate
threshold: 0.1
otherwise: -5
of:
  - {kind: ensemble, mode: wco, name: look, of: [saturation, contrast]}
  - {kind: direction, weights: {tiny-clip.alignment: 1}, of: [tiny-clip]}
""")
    reward = load_reward(str(tmp_path / "mine.yaml"))
    assert reward.name == "mine" and reward.columns == ("look.score", "direction.score")
    grey = Sample("a red fruit", Image.new("RGB", (64, 64), "gray"))
    assert reward.score([grey]).values.item() == -5.0


def test_rewards_without_a_common_modality_cannot_be_combined():
    with pytest.raises(UserError, match="no modality in common"):
        load_reward({"kind": "ensemble", "of": ["saturation", "flicker"]})
