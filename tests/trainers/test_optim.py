"""The moving average follows at the steps it is told to, with the decay of the step it is at."""

import pytest
import torch

from visalign.config import OptimSettings
from visalign.trainers.optim import build_ema


def test_average_is_renewed_every_second_step_by_hand():
    weight = torch.nn.Parameter(torch.zeros(1))
    average = build_ema(OptimSettings(ema_decay=0.9, ema_every=2), [weight])
    seen = []
    for value in (1.0, 2.0, 3.0, 4.0):
        weight.data.fill_(value)
        average.step([weight])
        seen.append(average.shadow_params[0].item())
    # steps 2 and 4 count, with decays (1 + 1) / (10 + 1) and (1 + 3) / (10 + 3):
    # 2 (9 / 11) = 1.636364, then 4 / 13 of that and 9 / 13 of 4 = 3.272727
    assert seen == pytest.approx([0, 18 / 11, 18 / 11, 4 / 13 * 18 / 11 + 36 / 13])


def test_without_a_decay_there_is_no_average():
    assert build_ema(OptimSettings(), [torch.nn.Parameter(torch.zeros(1))]) is None
    with pytest.raises(ValueError, match="ema_every"):
        OptimSettings(ema_every=8)
