"""Weights and samples as bytes: safetensors, so every bit arrives as it was sent and nothing is run on arrival."""

from dataclasses import dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.trainers.online.rollout import Start, Trajectory
from visalign.trainers.online.scoring import RewardBatch

_STACKED = ("latents", "steps", "before", "after", "log_prob", "mean", "moves", "values", "other",
            "other_log_prob", "decided")


@dataclass(frozen=True)
class Ready:
    """What a worker says once it holds the generator. identity: of its frozen weights and its packages."""

    place: str
    identity: str


@dataclass(frozen=True)
class Complaint:
    """What is wrong, in one sentence."""

    sentence: str


@dataclass(frozen=True)
class DrawnBatch:
    """A batch's samples as bytes, its scores (None where votes are followed), images for the grid, seconds by phase,
    passes through the network, and the version of the weights that drew it."""

    version: int
    samples: bytes
    scores: RewardBatch | None
    images: list[tuple[int, Sample]]
    seconds: dict[str, float]
    passes: dict[str, int]


def packed_weights(parameters: list[tuple[str, nn.Parameter]]) -> bytes:
    return save({name: parameter.detach().cpu().contiguous() for name, parameter in parameters})


@torch.no_grad()
def put_packed(parameters: list[tuple[str, nn.Parameter]], content: bytes) -> None:
    """Make these the weights. Raises UserError when they are another model's."""
    found = load(content)
    if {name: tuple(each.shape) for name, each in found.items()} != {name: tuple(p.shape) for name, p in parameters}:
        raise UserError("rollout.engine ray: the weights that the learner sent are not those of this actor's model; is "
                        "model.source the same on all machines?")
    for name, parameter in parameters:
        parameter.copy_(found[name])


def packed_samples(drawn: list[Trajectory]) -> bytes:
    columns = {name: [getattr(sample, name) for sample in drawn] for name in _STACKED}
    return save({name: torch.stack(values).contiguous() for name, values in columns.items() if values[0] is not None})


def unpacked_samples(content: bytes, starts: tuple[Start, ...]) -> list[Trajectory]:
    columns: dict[str, Tensor] = load(content)
    return [Trajectory(start, **{name: columns[name][i] if name in columns else None for name in _STACKED})
            for i, start in enumerate(starts)]
