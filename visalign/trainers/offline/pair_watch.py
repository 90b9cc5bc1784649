"""Errors of held-out pairs while an offline run learns, measured between the guard's looks for it to ask about."""

import math
from typing import Protocol

import torch
from torch import Tensor

from visalign.config import OfflineConfig
from visalign.evaluators.pair_watch import PairErrorsSeen, PairSuspicion, pair_suspicion
from visalign.evaluators.verdict import VerdictLimits
from visalign.objectives import PairErrors
from visalign.parallel.sharing import Processes
from visalign.storage.run_folder import RunFolder
from visalign.trainers.cost import passes_of_step
from visalign.trainers.order import check_watched

COST = 0.01
"""Share of training's network passes that measuring held-out pairs may take."""
LEVELS = torch.tensor([0.3, 0.7])
"""Noise at which they are measured."""


class MeasuresPairs(Protocol):
    def held_out_errors(self, limit: int, fractions: Tensor) -> list[list[PairErrors]]:
        """Errors of the first held-out pairs: for each batch of them, one at each fraction."""


def every_steps(config: OfflineConfig, objective, pairs: int, world: int = 1) -> int:
    """Steps between two measurements of so many pairs, the fewest that cost at most COST of training's passes."""
    passes = pairs * len(LEVELS) * len(objective.sides) * (1 + ("reference" in objective.needs))
    return max(1, math.ceil(passes / (COST * passes_of_step(config, objective) * world)))


class PairWatch:
    """What is known of the held-out pairs; rows of kind `watch` in metrics.jsonl, so that a resumed run knows as much.

    processes: all know the same and ask together. step: at which the run is. Raises UserError where no pair is held
    out.
    """

    def __init__(self, config: OfflineConfig, objective, held_out: int, run: RunFolder, processes: Processes):
        self.run, self.processes, self.growth = run, processes, config.guard.growth
        self.pairs = min(config.guard.watch_pairs, held_out)
        check_watched(bool(self.pairs))
        self.every = every_steps(config, objective, self.pairs, processes.world)
        self.moments = max(1, config.train.steps // self.every)
        self.step = 0
        self._seen: list[PairErrorsSeen] | None = None

    @property
    def seen(self) -> list[PairErrorsSeen]:
        """In order; what an earlier session knew is read once."""
        if self._seen is None:
            self._seen = [PairErrorsSeen(row["step"], tuple(row["chosen"]), tuple(row["rejected"]))
                          for row in self.processes.told_by_first(
                              lambda: [row for row in self.run.metrics() if row["kind"] == "watch"])]
        return self._seen

    @property
    def is_due(self) -> bool:
        """At the start, and every so many steps after it; not twice."""
        return self.step % self.every == 0 and not any(each.step == self.step for each in self.seen)

    def note(self, trainer: MeasuresPairs) -> None:
        """Measure and keep; the network is as it is measured (`measuring`)."""
        batches = trainer.held_out_errors(self.pairs, LEVELS)
        chosen = [value for batch in batches for value in mean_over_levels([each.chosen for each in batch])]
        rejected = [value for batch in batches if all(each.rejected is not None for each in batch)
                    for value in mean_over_levels([each.rejected for each in batch])]
        self.seen.append(PairErrorsSeen(self.step, tuple(chosen), tuple(rejected)))
        self.run.log({"kind": "watch", "step": self.step, "chosen": chosen, "rejected": rejected})

    def suspicion(self, limits: VerdictLimits) -> PairSuspicion | None:
        """By what was measured at this step; None where nothing was, or nothing at the start. The limits of samples say
        nothing of pairs, which have `guard.growth`."""
        if len(self.seen) < 2 or self.seen[-1].step != self.step or self.seen[0].step:
            return None
        return pair_suspicion(self.seen[0], self.seen[-1], self.growth, self.moments)


def mean_over_levels(errors: list) -> list[float]:
    """Of each pair, [B], rounded to what is known."""
    return [float(f"{value:.6g}") for value in torch.stack(errors).double().mean(0).tolist()]
