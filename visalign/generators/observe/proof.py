"""Proof that what was observed is what the pipeline does, before anything is trained on it."""

from typing import Any

import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.generators.observe.arguments import argument_leaves, path_name, same
from visalign.generators.observe.conventions import Conventions
from visalign.generators.observe.replay import Replay
from visalign.generators.observe.running import ShortCalls
from visalign.generators.observe.watching import primary

ROUND_OFF = 1e-4
"""Relative; conventions that differ leave a hundred times as much."""
HALF = 2e-2
"""The same where the pipeline computes in half precision."""
STEP = 2e-3
"""Relative to a step's change, between our Euler step and the first step of a scheduler of any order."""


def prove(calls: ShortCalls, process, conventions: Conventions) -> None:
    """Raise UserError naming the first convention that does not reproduce what the pipeline did."""
    _check_vae(calls, conventions, prove_step(calls, process, conventions))


def prove_step(calls: ShortCalls, process, conventions: Conventions) -> Tensor:
    """The same of one step; returns its latents [1, ...]."""
    replay, step = Replay(conventions), calls.first_step([calls.prompt])
    [row] = replay.rows(step, True)
    latents = conventions.from_rule(step.sample.float())
    if process.kind == "flow":
        time = torch.tensor([step.sigma], device=latents.device)
        _check_step(process, conventions, step, latents, time)
    else:
        time = torch.as_tensor(step.timestep, device=latents.device).reshape(1)
        latents = _as_network_sees(conventions, step, latents)
    _check_arguments(replay, step, row, latents, time)
    return latents


def _as_network_sees(own: Conventions, step, latents: Tensor) -> Tensor:
    """Latents at the scale that a scheduler of diffusions gives them for the network."""
    given = dict(argument_leaves(step.calls[0].arguments))[own.latents]
    theirs = (given[0][None] if own.as_list else given).double()
    mine = own.to_network(latents, theirs.float()).double()
    return latents * float((mine * theirs).sum() / mine.square().sum())


def difference(one: Tensor, other: Tensor) -> float:
    """Of two tensors, relative to the second."""
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-12))


def _most(value: Tensor) -> float:
    return ROUND_OFF if value.dtype in (torch.float32, torch.float64) else HALF


def _check_arguments(replay: Replay, step, row: dict[str, Tensor], latents: Tensor, time: Tensor) -> None:
    own, call = replay.conventions, step.calls[0]
    conditioning = {name: value[None] for name, value in row.items()}
    recorded = dict(argument_leaves(call.arguments))
    scales = torch.full((1,), 1.0, device=latents.device)
    for path, value in argument_leaves(replay.arguments(latents, time, conditioning, scales, step.sample.dtype)):
        if path in own.embedded or path in own.companions:
            continue
        pairs = list(zip(value, recorded[path], strict=True)) if isinstance(value, list) else [(value, recorded[path])]
        most = _most(step.sample) + (STEP if path in own.times else 0)
        if not all(_reproduced(mine, theirs, most) for mine, theirs in pairs):
            raise UserError(f"the argument {path_name(path)} of its network could not be reproduced, so what it means "
                            "here is not understood")


def _reproduced(mine: Any, theirs: Any, most: float) -> bool:
    """Whether an argument is the recorded one, up to round-off; one number stands for a sample's."""
    if not isinstance(mine, Tensor) or not isinstance(theirs, Tensor):
        return same(mine, theirs)
    theirs = theirs.expand(mine.shape) if theirs.numel() == 1 else theirs
    return mine.shape == theirs.shape and difference(mine, theirs) <= max(most, _most(theirs))


def _check_step(process, own: Conventions, step, latents: Tensor, time: Tensor) -> None:
    """That our deterministic step with the scheduler's own input is the scheduler's."""
    velocity, after = own.from_rule(step.model_output.float()), own.from_rule(step.after.float())
    expected = process.step(velocity, latents, time, torch.tensor([step.next_sigma], device=latents.device))
    if difference(expected - latents, after - latents) > STEP + max(_most(step.after), _most(step.model_output)):
        raise UserError("its scheduler's step is not that of a rectified flow from the noise level it names to the "
                        "next, so such a model cannot be trained here")


def _check_vae(calls: ShortCalls, own: Conventions, like: Tensor) -> None:
    """That what is decoded of random latents is what the map says, and that it leads back to them."""
    rng = torch.Generator().manual_seed(11)
    latents = torch.randn(like.shape, generator=rng).to(like)
    z = calls.decoded(own.to_rule(latents))[0].float()
    if own.given is not None:
        latents = torch.where(own.given, own.vae.from_vae(z), latents)
    expected, back = own.vae.to_vae(latents), own.vae.from_vae(z)
    first = primary(own.template)
    most = _most(first[0] if isinstance(first, list) else first)
    if z.shape != expected.shape or max(difference(expected, z), difference(back, latents)) > most:
        raise UserError("what its VAE is given of random latents is not what was observed of others")
