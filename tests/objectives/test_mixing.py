"""Which settings go with which way to combine rewards, and whose weights a run finds."""

import pytest
import torch

from visalign.objectives.advantages import AdvantageRule
from visalign.objectives.balance import Balance
from visalign.objectives.constrained import Multipliers
from visalign.objectives.mixing import FixedWeights
from visalign.objectives.worst_group import WorstGroup

NAMES = ("a", "b")


@pytest.mark.parametrize("settings, kind, found, probes", [
    ({}, FixedWeights, (), False), ({"combine": "gdpo"}, FixedWeights, (), False),
    ({"combine": "marble"}, Balance, NAMES, True), ({"combine": "worst"}, WorstGroup, NAMES, False),
    ({"combine": "constrained", "thresholds": {"b": 1.0}}, Multipliers, ("b",), False)])
def test_each_way_has_its_weights(settings, kind, found, probes):
    rule = AdvantageRule(**settings)
    mixture = rule.mixture_of(NAMES, torch.tensor([1.0, 2.0]))
    assert isinstance(mixture, kind) and rule.found_of(NAMES) == found and rule.probes == probes
    assert rule.finds_weights == bool(found) == hasattr(mixture, "state_dict")
    assert mixture.weights.dtype == torch.float64 and len(mixture.weights) == 2


def test_fixed_weights_stay():
    fixed = FixedWeights(torch.tensor([1.0, 2.0], dtype=torch.float64))
    fixed.see(torch.ones(3, 2))
    assert fixed.weights.tolist() == [1, 2] and fixed.figures(NAMES) == {}


@pytest.mark.parametrize("settings, words", [
    ({"combine": "constrained"}, "needs thresholds"), ({"thresholds": {"a": 1.0}}, "thresholds goes with combine"),
    ({"combine": "worst", "squash": "none"}, "squash goes with combine constrained"),
    ({"combine": "marble", "rate": 0.5}, "rate goes with combine constrained or worst"),
    ({"combine": "worst", "momentum": 0.5}, "momentum goes"), ({"combine": "worst", "rate": 0.0}, "rate must be"),
    ({"combine": "constrained", "thresholds": {"a": float("inf")}}, "thresholds must be"),
    ({"combine": "worst", "gate": "a"}, "gate counts some"), ({"combine": "worst", "rarity": 0.1}, "rarity adds")])
def test_settings_of_another_way_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        AdvantageRule(**settings)
