"""Diversity within the groups that a run learns from, measured as they come, for the guard to ask about."""

import hashlib

from visalign.errors import UserError
from visalign.evaluators import diversity
from visalign.evaluators.watch import Suspicion, WatchedEpoch, suspicion_of
from visalign.media.source_images import content_of
from visalign.parallel.sharing import Processes
from visalign.storage.run_folder import RunFolder
from visalign.trainers.online.collect import RolloutBatch


class GroupWatch:
    """What is known of each epoch's groups; rows of kind `watch` in metrics.jsonl, so that a resumed run knows as much.

    processes: all know the same and ask together.
    """

    def __init__(self, run: RunFolder, processes: Processes):
        self.run, self.processes = run, processes
        self._epochs: list[WatchedEpoch] | None = None

    @property
    def epochs(self) -> list[WatchedEpoch]:
        """In order; what an earlier session knew is read once."""
        if self._epochs is None:
            self._epochs = [epoch_of(row) for row in self.processes.told_by_first(
                lambda: [row for row in self.run.metrics() if row["kind"] == "watch"])]
        return self._epochs

    def note(self, epoch: int, collected: RolloutBatch, group_size: int) -> dict[str, float]:
        """Measure and keep an epoch, counted from 1; returns what is logged of it.

        Raises UserError when features are not finite.
        """
        features = collected.features
        try:
            found = diversity.per_prompt(features.view(-1, group_size, features.shape[1]))["extra"]
        except ValueError as error:
            raise UserError(f"epoch {epoch}: {error}; what embeds samples (reward.features, or eval.features where the "
                            "guard watches) does not work on them, set guard.watch=false or name another") from None
        asked = [hashlib.sha256(content_of(prompt).encode()).hexdigest()[:12]
                 for prompt in collected.prompts[::group_size]]
        row = {"noisy": sorted(collected.stochastic), "prompts": asked,
               "diversity": [round(value, 5) for value in found.tolist()]}
        self.epochs.append(epoch_of(row | {"step": epoch}))
        self.run.log({"kind": "watch", "step": epoch} | row)
        return {"group_diversity": found.mean().item()}

    def suspicion(self, budget: float) -> Suspicion | None:
        """Whether diversity is falling by what is known; None while that is too little."""
        return suspicion_of(self.epochs, budget) if self.epochs else None


def epoch_of(row: dict) -> WatchedEpoch:
    """From a row of metrics.jsonl."""
    return WatchedEpoch(row["step"], tuple(row["noisy"]), tuple(row["prompts"]), tuple(row["diversity"]))
