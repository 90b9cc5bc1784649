"""`eval.keep_best`: a run ends with the weights at which a held-out reward was best, the untrained ones included.

What was measured is in metrics.jsonl and the weights in best/, so a run that is killed continues to the same choice.
"""

import math
from collections.abc import Sequence

from visalign.config import OfflineConfig, OnlineConfig
from visalign.errors import UserError
from visalign.evaluators.prompt_metrics import PromptMetrics, known_mean
from visalign.rewards import Reward
from visalign.trainers.followed import FollowedTrainer
from visalign.trainers.kept_weights import KeptWeights

RETURNED = "-returned"
"""Ends the folder of samples that were drawn after a run had gone back to earlier weights."""


def check_keep_best(config: OfflineConfig | OnlineConfig, rewards: Sequence[Reward]) -> None:
    """Raise UserError when the reward that decides is not measured, or the guard decides as well."""
    wanted, names = config.eval.keep_best, [reward.name for reward in rewards]
    if wanted and wanted not in names:
        measured = f"the rewards that are measured are {', '.join(names)}" if names else "no reward is measured"
        raise UserError(f"eval.keep_best {wanted}: {measured}; name one of them, or measure that one with eval.reward "
                        "or eval.also")
    if wanted and config.guard.action == "rollback":
        raise UserError("guard.action rollback and eval.keep_best each return to weights of their own choice; set "
                        "guard.action to stop or warn, or leave eval.keep_best out")


class Best:
    """The weights of the best measurement so far, by the mean of `reward` over the held-out prompts."""

    def __init__(self, trainer: FollowedTrainer, reward: str):
        self.metric, self.unit = f"reward/{reward}", trainer.unit
        self.weights = KeptWeights("eval.keep_best", trainer.run.path / "best", trainer.state,
                                   trainer.engine.processes)

    def value(self, values: dict[str, list[float]]) -> float:
        mean = known_mean(values[self.metric])
        return -math.inf if math.isnan(mean) else mean

    def step(self, rows: list[dict]) -> int:
        """Of the first best of measurements as logged."""
        own = [row for row in rows if not row["folder"].endswith(RETURNED)]
        return max(own, key=lambda row: self.value(row["values"]))["step"]

    def look(self, rows: list[dict], step: int, folder: str, found: PromptMetrics) -> int:
        """Keep the weights of a measurement that is better than the earlier `rows`; the step of the best one then."""
        best = self.step([*rows, {"step": step, "folder": folder, "values": found.values}])
        if best == step and not folder.endswith(RETURNED):
            self.weights.save(step)
        return best

    def told(self, step: int, last: int) -> str:
        """In words: of which step the weights are."""
        return f"those of {self.unit} {step} of {last}, where {self.metric.removeprefix('reward/')} was best"
