"""What an online run knows of its groups' diversity: measured by hand, kept, and known again after a resume."""

import math

import pytest
import torch

from visalign.errors import UserError
from visalign.parallel.sharing import ALONE
from visalign.trainers.online.collect import RolloutBatch
from visalign.trainers.online.watching import GroupWatch


class Folder:
    """A run's folder in memory."""

    def __init__(self):
        self.rows = []

    def log(self, row):
        self.rows.append(row)

    def metrics(self):
        return self.rows


def collected(features: torch.Tensor) -> RolloutBatch:
    n = len(features)
    return RolloutBatch({}, torch.zeros(n, 1), torch.arange(n) // 2, ["one"] * 2 + ["two"] * 2, [], {},
                        frozenset({1, 0}), 0, features)


def test_groups_are_measured_kept_and_known_again():
    run = Folder()
    watch = GroupWatch(run, ALONE)
    alike, unlike = [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
    logged = watch.note(1, collected(torch.tensor(alike + unlike)), group_size=2)
    assert logged == {"group_diversity": pytest.approx(0.5, abs=1e-6)}  # Vendi scores 1 and 2, less 1
    assert watch.epochs[0].diversity == pytest.approx((0.0, 1.0), abs=1e-5) and watch.epochs[0].noisy == (0, 1)
    assert len(set(watch.epochs[0].prompts)) == 2 and "one" not in watch.epochs[0].prompts
    assert GroupWatch(run, ALONE).epochs == watch.epochs
    assert watch.suspicion(0.15) is None and GroupWatch(Folder(), ALONE).suspicion(0.15) is None


def test_features_that_are_not_finite_are_told():
    with pytest.raises(UserError, match="epoch 1: the features of prompt 1 are not finite"):
        GroupWatch(Folder(), ALONE).note(1, collected(torch.full((4, 2), math.nan)), group_size=2)
