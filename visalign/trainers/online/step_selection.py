"""Which sampling steps of an epoch are stochastic, and which of them are trained on."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from visalign.config import RolloutSettings, WindowSettings
from visalign.errors import UserError
from visalign.sampling.seeds import rng_for
from visalign.trainers.online.trunks import widened


class StepPlan(NamedTuple):
    """stochastic: step indices that add noise. trained: int64 [n, K], each sample's trained steps in rising order."""

    stochastic: frozenset[int]
    trained: Tensor


def noisy_steps(process, times: Tensor, settings: RolloutSettings) -> list[int]:
    """Steps at which the sampler adds noise: only these have a log-probability."""
    return (noise_of_steps(process, times, settings) > 0).nonzero().flatten().tolist()


def noise_of_steps(process, times: Tensor, settings: RolloutSettings) -> Tensor:
    """The std of the noise that each step may add, float32 [steps less clean_steps]."""
    count = len(times) - 1 - settings.clean_steps
    nothing = torch.zeros(count, 1)
    moments = process.moments(nothing, nothing, times[:count], times[1:count + 1], settings.sampler,
                              settings.noise_level)
    return widened(moments, settings, torch.arange(count)).std


def plan_steps(settings: RolloutSettings, noisy: list[int], epoch: int, seed: int, places: list[int]) -> StepPlan:
    """The plan of one epoch for the samples at `places`."""
    window = settings.trained_window
    if window is not None:
        start = window_start(window, settings.steps - settings.clean_steps, epoch, seed)
        inside = [j for j in range(start, start + window.size) if j in noisy]
        return StepPlan(frozenset(noisy if settings.branches else inside), _table([inside] * len(places), len(inside)))
    count = trained_count(settings, noisy)
    rows = [noisy[:count]] * len(places)
    if settings.train_choice == "random":
        rows = [sorted(noisy[i] for i in torch.randperm(
            len(noisy), generator=rng_for(seed, epoch, place, "steps"))[:count].tolist()) for place in places]
    return StepPlan(frozenset(noisy), _table(rows, count))


def trained_count(settings: RolloutSettings, noisy: list[int]) -> int:
    """How many of the stochastic steps are trained on where there is no window."""
    return min(len(noisy), max(1, int(len(noisy) * settings.train_fraction)))


def _table(rows: list[list[int]], width: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width)


def check_noise(settings: RolloutSettings) -> None:
    """Raise UserError when by the settings alone no step adds noise, so that none has a log-probability."""
    if settings.sampler == "ode" or not settings.noise_level or settings.clean_steps >= settings.steps:
        raise UserError(f"rollout.sampler {settings.sampler} with noise_level {settings.noise_level:g} and clean_steps "
                        f"{settings.clean_steps} adds no noise in {settings.steps} steps, so there is no "
                        "log-probability to train on; choose a stochastic sampler and a noise_level above 0")


def check_steps(settings: RolloutSettings, noisy: list[int]) -> None:
    """Raise UserError when, with this model's times, a likelihood method would have no step to train on."""
    silent = [j for j in settings.split_steps if j not in noisy]
    if silent:
        raise UserError(f"rollout.branches.steps {silent[0]}: this sampling step adds no noise with this model's "
                        "times, so what divides there would stay the same; choose another")
    window = settings.trained_window
    last = 0 if window is None else window_last(window, settings.steps - settings.clean_steps)
    if not any(j in noisy for j in range(last, last + (window.size if window else settings.steps))):
        where = "rollout.branches.trained" if settings.branches else "rollout.window"
        raise UserError(f"rollout: at sampling step {last} and after it no step adds noise with this model's times; "
                        f"use more steps, or set {where}.last lower")


def window_last(window: WindowSettings, steps: int) -> int:
    """The latest start at which the window still fits."""
    whole = steps - window.size
    return whole if window.last is None else min(window.last, whole)


def window_start(window: WindowSettings, steps: int, epoch: int, seed: int) -> int:
    """First step of the window in an epoch (MixGRPO's schedules, or Flow-GRPO-Fast's random place)."""
    last = window_last(window, steps)
    first = min(window.first, last)
    if window.schedule == "random":
        return int(torch.randint(first, last + 1, (), generator=rng_for(seed, epoch, "window")))
    places = window_places(window, steps)
    cycle = [place for place in places for _ in range(_dwell(window, place, first, last))]
    return cycle[epoch % len(cycle)]


def window_places(window: WindowSettings, steps: int) -> range:
    """Where a window that slides may start."""
    last = window_last(window, steps)
    return range(min(window.first, last), last + 1, window.stride)


def _dwell(window: WindowSettings, place: int, first: int, last: int) -> int:
    """Epochs spent at a place."""
    if window.schedule == "decay":
        return max(1, round(window.iterations * (1 - (place - first) / (last - first + 1))))
    if window.schedule == "exp_decay":
        return math.ceil(window.iterations * math.exp(-window.exp_rate * max(0, place - window.exp_from)))
    return window.iterations
