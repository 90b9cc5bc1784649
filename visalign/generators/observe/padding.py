"""Whether prompts of different lengths can pass through the network together, as its own answers show."""

import dataclasses

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.observe.arguments import ArgumentPath, argument_leaves, path_name
from visalign.generators.observe.conventions import Conventions
from visalign.generators.observe.proof import HALF, ROUND_OFF, difference
from visalign.generators.observe.replay import Replay
from visalign.generators.observe.rows import LENGTH_MARK, Padding, is_ragged, stack
from visalign.generators.observe.running import ShortCalls
from visalign.generators.observe.watching import SchedulerStep

_MASK = "mask"


def find_padding(calls: ShortCalls, found: Conventions, short: SchedulerStep, long: SchedulerStep) -> Padding | None:
    """From steps with a short prompt and a long one; None where they are equally long, where the network refuses them
    together, or where its predictions then are not those of each alone."""
    rows = [row for step in (short, long) for row in Replay(found).rows(step, True)]
    try:
        batch = stack(rows)
    except UserError:  # two such prompts have no batch at all
        return None
    masks = _masks(found, batch)
    if not is_ragged(batch) or masks is None:
        return None
    padding = Padding(masks)
    together = Replay(dataclasses.replace(found, padding=padding))
    one, two = (_predicted(calls, together, short, [row]) for row in rows)
    try:
        both = _predicted(calls, together, short, rows)
    except (RuntimeError, ValueError, TypeError):  # a mask of another kind: such prompts go one length at a time
        return None
    most = _most(calls.networks[short.calls[0].network], one.device)
    depends = difference(one, two) > most  # else there is nothing to see
    return padding if depends and difference(both, torch.cat([one, two])) <= most else None


def _most(network: nn.Module, device: torch.device) -> float:
    half = network.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled(device.type)
    return HALF if half else ROUND_OFF


def _masks(found: Conventions, batch: dict[str, Tensor]) -> dict[ArgumentPath, str] | None:
    """The masks that are to be made for padded tensors; None where one has none."""
    layout = found.layout
    padded = [name for name in (mark.split(LENGTH_MARK)[0] for mark in batch if LENGTH_MARK in mark)
              if (place := layout.places.get(layout.paths[name])) is not None and place.axis is not None]
    tokens = [name for name in padded if _MASK not in name]
    if len(padded) > len(tokens) or not tokens:  # the pipeline's own masks are padded with zeros
        return {}
    empty = [path for path, value in argument_leaves(layout.shared) if value is None and _MASK in path_name(path)]
    return {empty[0]: tokens[0]} if len(empty) == len(tokens) == 1 else None


def _predicted(calls: ShortCalls, replay: Replay, step: SchedulerStep, rows: list[dict[str, Tensor]]) -> Tensor:
    """Of the real network, for the step's latents with each of these rows."""
    network = calls.networks[step.calls[0].network]
    sample = replay.conventions.from_rule(step.sample.float())
    time = step.timestep if step.sigma is None else step.sigma
    times = torch.as_tensor(time, device=sample.device).reshape(-1)[:1].repeat(len(rows))
    with torch.no_grad():
        return replay.predictions(lambda arguments, _: network(**arguments), torch.cat([sample] * len(rows)), times,
                                  stack(rows), torch.ones(len(rows), device=sample.device), network.dtype)
