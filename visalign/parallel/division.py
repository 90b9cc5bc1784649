"""What each of several processes will hold a part of, by accelerate's configuration, before any of them is there."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import patch_environment
from torch import Tensor

from visalign.errors import UserError
from visalign.parallel.opening import is_sharded_run, replicas_asked, uses_deepspeed

EVEN = 2
"""What a part of ZeRO's is a multiple of."""


@dataclass(frozen=True)
class Division:
    """How many processes there are, and how many of them divide the weights; state: gradients and optimiser state."""

    processes: int = 1
    weights: int = 1
    state: int = 1

    def part(self, tensor: Tensor) -> int:
        """The numbers of one of the network's tensors that the first process holds: whole rows, and no fewer than any
        other."""
        if not tensor.ndim or not tensor.numel():
            return tensor.numel()
        return -(-tensor.shape[0] // self.weights) * (tensor.numel() // tensor.shape[0])

    def flat(self, numbers: int) -> int:
        """What each process holds of so many that are divided end to end."""
        return -(-numbers // (EVEN * self.state)) * EVEN

    @property
    def words(self) -> str:
        """'4 processes, each with ...', or '' for one."""
        whole = "each with the whole model"
        if self.weights > 1:
            whole = f"each with 1/{self.weights} of the network, its gradients and its optimiser's state"
        elif self.state > 1:
            whole = f"each with the whole model and 1/{self.state} of gradients and optimiser state"
        return f"{self.processes} processes, {whole}" if self.processes > 1 else ""


def division() -> Division:
    """As the environment says that this process was, or will be, started."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if not is_sharded_run():
        return Division(world)
    if uses_deepspeed():
        return Division(world, state=world)
    shards = max(1, world // replicas_asked())
    return Division(world, shards, shards)


@contextlib.contextmanager
def as_configured(file: Path) -> Iterator[None]:
    """A context in which the environment is that of the first process that accelerate would start from this file."""
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        config = load_config_from_file(str(file))
        found = {"WORLD_SIZE": config.num_processes, "ACCELERATE_MIXED_PRECISION": config.mixed_precision or "no",
                 "LOCAL_WORLD_SIZE": max(1, config.num_processes // config.num_machines)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"--accelerate {file}: is no configuration of accelerate ({' '.join(str(error).split())[:150]}"
                        "); make one with `accelerate config`, or take one of configs/accelerate") from None
    kind = config.distributed_type
    if kind == "FSDP":
        found |= {"ACCELERATE_USE_FSDP": "true"} | named(config.fsdp_config)
    if kind == "DEEPSPEED":
        found |= {"ACCELERATE_USE_DEEPSPEED": "true"} | named(config.deepspeed_config, "ACCELERATE_DEEPSPEED_")
    if config.parallelism_config:
        found |= {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"} | named(config.parallelism_config)
    with patch_environment(**found):
        yield


def named(settings: dict, start: str = "") -> dict[str, str]:
    """Settings as variables: their names in capitals, after `start`."""
    return {(start + name.removeprefix("deepspeed_")).upper(): str(value).lower() if isinstance(value, bool) else
            str(value) for name, value in settings.items()}
