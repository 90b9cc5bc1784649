"""What cadence and guard ask of a trainer, whether the loop is this package's or a library's."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

from accelerate import Accelerator
from torch import nn

from visalign.evaluators.verdict import VerdictLimits
from visalign.parallel.engine import Engine
from visalign.storage.run_folder import RunFolder


class FollowedState(Protocol):
    """parameters: the trained ones by name. ema: their moving average, None without one."""

    parameters: list[tuple[str, nn.Parameter]]
    step: int
    ema: Any

    def averaged(self) -> AbstractContextManager:
        """A context in which the parameters hold their average."""


class Doubt(Protocol):
    """What makes the guard look before it is due, in words."""

    @property
    def suspicious(self) -> bool: ...

    @property
    def words(self) -> str: ...


class Watched(Protocol):
    """moments: how often it may be suspicious in a run."""

    moments: int

    def suspicion(self, limits: VerdictLimits) -> Doubt | None:
        """Whether something goes wrong by half of what is allowed; None while that is not known."""


class KeptCheckpoints(Protocol):
    def save_if_new(self) -> None:
        """Save unless the newest checkpoint is of this step."""


class FollowedTrainer(Protocol):
    """unit: what a step is called. watch: what is known of what it learns from, if anything.
    measuring: a context that gives the model as held-out samples are drawn from it.
    held_out_metrics: what is logged beside their rewards. fit: trains on, calling back after each step, and says
    whether what was called ended the run."""

    unit: ClassVar[str]
    watch: Watched | None
    config: Any
    objective: Any
    run: RunFolder
    accelerator: Accelerator
    engine: Engine

    @property
    def state(self) -> FollowedState: ...

    @property
    def checkpoints(self) -> KeptCheckpoints: ...

    def measuring(self) -> AbstractContextManager[Any]: ...

    def held_out_metrics(self) -> dict[str, Any]: ...

    def fit(self, on_unit: Callable[[int], bool]) -> bool: ...
