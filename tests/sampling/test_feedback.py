"""What a reward does to pairs that are labelled already."""

from dataclasses import replace

import pytest
import torch

from visalign.config import DataSettings
from visalign.data.preferences import read_pairs
from visalign.sampling import feedback
from visalign.sampling.feedback import rescored


@pytest.mark.parametrize("rerank, chances", [(False, [0.7, 0.7]), (True, [1.0, 1.0])])
def test_a_chance_goes_with_the_label_that_the_reward_replaces(pairs_file, monkeypatch, rerank, chances):
    monkeypatch.setattr(feedback, "finite_scores", lambda reward, samples: torch.tensor([0.1, 0.9, 0.8, 0.2]))
    pairs = [replace(pair, chance=0.7) for pair in list(read_pairs(DataSettings(path=str(pairs_file))))[:2]]
    first, second = rescored(iter(pairs), None, rerank, None, pytest.fail)
    assert [first.chance, second.chance] == chances
    assert (first.chosen, second.chosen) == (pairs[0].rejected if rerank else pairs[0].chosen, pairs[1].chosen)
