"""Optimisers step and are measured as they should be; a moving average follows at the steps it is told to."""

import importlib.util
from typing import get_args

import pytest
import torch

from visalign.config import OptimSettings
from visalign.config.load import parse_config
from visalign.errors import UserError
from visalign.trainers import optim
from visalign.trainers.checkpoint import TrainingState
from visalign.trainers.optim import MOMENTS, OPTIMIZERS, build_ema, build_optimizer, build_schedule, check_optimizer

INSTALLED = [name for name, kind in OPTIMIZERS.items() if importlib.util.find_spec(kind.module.partition(".")[0])]


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


def state_of(settings: OptimSettings, start: torch.Tensor) -> TrainingState:
    weight = torch.nn.Parameter(start.clone())
    optimizer = build_optimizer(settings, [weight])
    return TrainingState([("weight", weight)], optimizer, build_schedule(settings, optimizer, 100),
                         build_ema(settings, [weight], optimizer))


def walk(state: TrainingState, steps: int) -> None:
    """Towards 1, from gradients that depend on the weights."""
    [(_, weight)] = state.parameters
    for _ in range(steps):
        weight.grad = weight.detach() - 1
        state.optimizer.step()
        state.advance()


def test_every_name_is_a_setting_and_a_table_entry():
    assert set(get_args(OptimSettings.model_fields["name"].annotation)) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", INSTALLED)
def test_an_optimiser_takes_the_bytes_it_says_and_continues_to_the_same_bits(name, tmp_path):
    torch.manual_seed(0)
    start, settings = torch.randn(256, 256), OptimSettings(name=name, warmup_steps=2)
    check_optimizer(settings)
    whole = state_of(settings, start)
    walk(whole, 3)
    whole.write(tmp_path)
    walk(whole, 3)
    resumed = state_of(settings, torch.zeros_like(start))
    resumed.read(tmp_path)
    walk(resumed, 3)
    weight = whole.parameters[0][1]
    assert weight.equal(resumed.parameters[0][1]) and not weight.isnan().any() and not weight.equal(start)
    size = sum(each.numel() * each.element_size() for each in optim.state_tensors(whole.optimizer))
    assert size / start.numel() == pytest.approx(MOMENTS[name], rel=0.05, abs=0.06)


def test_a_schedule_free_optimiser_is_measured_with_its_average_and_goes_on_from_the_same_bits():
    state = state_of(OptimSettings(name="adamw_schedulefree", lr=0.1), torch.zeros(8, 8))
    weight = state.parameters[0][1]
    walk(state, 5)
    trained = weight.detach().clone()
    with state.averaged():
        average = weight.detach().clone()
        # y = (1 - beta) z + beta x, so x = y + (z - y) (1 - 1 / beta)
        z = state.optimizer.state[weight]["z"]
        assert torch.allclose(average, trained + (z - trained) * (1 - 1 / 0.9)) and not average.equal(trained)
    assert weight.equal(trained)
    walk(state, 1)  # it is in training mode again


@pytest.mark.parametrize("told, words", [
    ({"name": "prodigy", "lr": 1e-4}, "optim.lr=1"),
    ({"name": "adamw_schedulefree", "schedule": "cosine"}, "optim.schedule=constant"),
    ({"name": "adamw_schedulefree", "ema_decay": 0.9}, "averages its weights itself"),
    ({"name": "muon"}, "full fine-tune"),
])
def test_settings_that_do_not_go_together(told, words):
    with pytest.raises(UserError, match=words):
        parse_config({"model": {"source": "tiny-sd3"}, "objective": {"name": "flow_dpo"}, "optim": told,
                      "data": {"path": "x"}})


def test_an_optimiser_has_its_own_defaults():
    assert OptimSettings(name="prodigy").lr == 1 and OptimSettings(name="lion").betas == (0.9, 0.99)
    assert OptimSettings(name="lion", lr=1e-3).lr == 1e-3


@pytest.mark.parametrize("options, words", [
    ({"epsilon": 1e-6}, "optim.options.epsilon: adamw has no such option"),
    ({"lr": 1e-6}, "optim.options.lr: is a setting of its own"),
    ({"eps": -1}, "cannot be used so with optim.options"),
])
def test_options_are_those_of_the_constructor(options, words):
    check_optimizer(OptimSettings(options={"amsgrad": True, "eps": 1e-6}))
    with pytest.raises(UserError, match=words):
        check_optimizer(OptimSettings(options=options))


def test_prodigy_does_not_take_two_learning_rates():
    pytest.importorskip("prodigyopt")
    with pytest.raises(UserError, match="prodigy cannot be used so"):
        check_optimizer(OptimSettings(name="prodigy"), (1.0, 0.1))


def test_a_package_that_is_missing_or_broken_is_named(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "adamw8bit", optim.OptimizerKind("no_such_package.optim", "A", 2, "bitsandbytes"))
    with pytest.raises(UserError, match="optim.name adamw8bit needs the package bitsandbytes: pip install"):
        check_optimizer(OptimSettings(name="adamw8bit"))
