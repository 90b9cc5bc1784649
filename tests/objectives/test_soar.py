"""SOAR's loss and what it says a step costs; its states are in tests/trainers/offline/test_corrected.py."""

import pytest
import torch

from visalign.objectives import PairErrors
from visalign.objectives.regression import SFT
from visalign.objectives.soar import SOAR


def test_the_loss_is_the_mean_of_the_samples_errors_by_their_weights():
    errors = PairErrors(torch.tensor([0.4, 0.2]), torch.full((2,), 0.5), torch.ones(2), weight=torch.tensor([1.0, 0.5]))
    assert SOAR()(errors).loss.item() == SFT()(errors).loss.item() == pytest.approx(0.25)


def test_defaults_are_the_published_ones():
    assert SOAR() == SOAR(points=6, weight=1.0, guidance_scale=4.5, rollout_steps=40)


@pytest.mark.parametrize("given, passes", [({}, (7, 2)), ({"points": 2}, (3, 2)), ({"guidance_scale": 1.0}, (7, 1)),
                                           ({"weight": 0.0}, (1, 0))])
def test_a_step_costs_its_points_and_the_models_own_step(given, passes):
    assert SOAR(**given).passes == passes


@pytest.mark.parametrize("given", [{"points": 0}, {"weight": -1.0}, {"rollout_steps": 1}, {"guidance_scale": -1.0}])
def test_values_out_of_range_are_named(given):
    [name] = given
    with pytest.raises(ValueError, match=name):
        SOAR(**given)
