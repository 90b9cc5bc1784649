"""Diversity, style and rewards of the groups that a run learns from, measured as they come, for the guard to ask about.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.evaluators import diversity
from visalign.evaluators.verdict import VerdictLimits
from visalign.evaluators.watch import OPTIMISED, Suspicion, WatchedEpoch, suspicion_of
from visalign.media.source_images import content_of
from visalign.parallel.sharing import Processes
from visalign.storage.run_folder import RunFolder
from visalign.trainers.online.collect import RolloutBatch
from visalign.trainers.online.sample_watch import SampleWatch


class GroupWatch:
    """What is known of each epoch's groups; rows of kind `watch` in metrics.jsonl, so that a resumed run knows as much.

    processes: all know the same and ask together. moments: after how many epochs it may be asked. measured: which
    samples, and what of them. weights: of the rewards that are learnt from, [K].
    """

    def __init__(self, run: RunFolder, processes: Processes, moments: int, measured: SampleWatch, weights: Tensor):
        self.run, self.processes, self.moments = run, processes, moments
        self.measured, self.weights = measured, weights
        self._epochs: list[WatchedEpoch] | None = None

    @property
    def epochs(self) -> list[WatchedEpoch]:
        """In order; what an earlier session knew is read once."""
        if self._epochs is None:
            self._epochs = [epoch_of(row) for row in self.processes.told_by_first(
                lambda: [row for row in self.run.metrics() if row["kind"] == "watch"])]
        return self._epochs

    def note(self, epoch: int, collected: RolloutBatch) -> dict[str, float]:
        """Measure and keep an epoch, counted from 1; returns what is logged of it.

        Raises UserError when features are not finite.
        """
        found = self._diversity(epoch, collected)
        asked = [hashlib.sha256(content_of(prompt).encode()).hexdigest()[:12]
                 for prompt in collected.prompts[::self.measured.group_size]]
        levels, spread = self._levels(collected)
        row = {"noisy": sorted(collected.stochastic), "prompts": asked,
               "diversity": [round(value, 5) for value in found.tolist()], "levels": levels, "spread": spread,
               "members": self.measured.group_size if self.measured.embeds_all else self.measured.members}
        self.epochs.append(epoch_of(row | {"step": epoch}))
        self.run.log({"kind": "watch", "step": epoch} | row)
        return {"group_diversity": found.mean().item()}

    def _diversity(self, epoch: int, collected: RolloutBatch) -> Tensor:
        features = collected.features
        assert features is not None
        grouped = features.view(-1, self.measured.group_size, features.shape[1])
        if not self.measured.embeds_all:
            grouped = grouped[:, :self.measured.members]
        try:
            return diversity.per_prompt(grouped)["extra"]
        except ValueError as error:
            raise UserError(f"epoch {epoch}: {error}; what embeds samples (reward.features, or eval.features where the "
                            "guard watches) does not work on them, set guard.watch=false or name another") from None

    def _levels(self, collected: RolloutBatch) -> tuple[dict[str, list[float]], dict[str, float]]:
        """Means within groups of what was measured of single samples, and how far these differ."""
        if collected.watched is None:
            return {}, {}
        weighted = (collected.rewards.double() * self.weights.double()).sum(1, keepdim=True)
        single = torch.cat([weighted, collected.watched.double()], 1)
        means = single.view(-1, self.measured.group_size, single.shape[1]).nanmean(1)
        levels, spread = {}, {}
        for i, name in enumerate((OPTIMISED, *self.measured.names)):
            levels[name] = [round_off(value) for value in means[:, i].tolist()]
            known = single[:, i][single[:, i].isfinite()]
            spread[name] = round_off(known.std(correction=0).item()) if len(known) else float("nan")
        return levels, spread

    def suspicion(self, limits: VerdictLimits) -> Suspicion | None:
        """Whether something is going wrong by what is known; None while that is too little."""
        return suspicion_of(self.epochs, limits, self.moments) if self.epochs else None


def round_off(value: float) -> float:
    """To five digits, which is more than is known."""
    return float(np.format_float_positional(value, 5, fractional=False)) if np.isfinite(value) else value


def epoch_of(row: dict) -> WatchedEpoch:
    """From a row of metrics.jsonl; one of an earlier version knows diversity alone."""
    levels = {name: tuple(values) for name, values in row.get("levels", {}).items()}
    return WatchedEpoch(row["step"], tuple(row["noisy"]), tuple(row["prompts"]), tuple(row["diversity"]), levels,
                        row.get("spread", {}), row.get("members", 0))
