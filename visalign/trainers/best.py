"""`eval.keep_best`: a run ends with the weights at which a held-out reward was best, the untrained ones included, and
says whether they are clearly better than those (evaluators/keeping.py).

What was measured and decided is in metrics.jsonl and the weights in best/, so a run that is killed continues to the
same choice.
"""

import math
from collections.abc import Sequence

from visalign.config import OfflineConfig, OnlineConfig
from visalign.errors import UserError
from visalign.evaluators.keeping import Replacement, gain_over_start, replacement
from visalign.evaluators.looks import error_of_look
from visalign.evaluators.prompt_metrics import PromptMetrics, prompt_metrics_of
from visalign.evaluators.statistics import Estimate
from visalign.evaluators.verdict import percent
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
        self.reward, self.unit = reward, trainer.unit
        every, last = trainer.config.eval.every, trainer.config.train.steps
        self.looks = (last - 1) // every + 1
        self.weights = KeptWeights("eval.keep_best", trainer.run.path / "best", trainer.state,
                                   trainer.engine.processes)

    def step(self, rows: list[dict]) -> int:
        """Of the one that is kept, of measurements as logged."""
        return rows[-1]["best_step"]

    def look(self, rows: list[dict], step: int, folder: str, found: PromptMetrics) -> dict:
        """Keep the weights of a measurement that is to replace that of the earlier `rows`; what is logged of it.

        best_step: the one kept then. best_error: what this look may spend. best_gain: over what was kept before, with
        its interval. best_passed: in words, why a higher one was not kept.
        """
        own = without_returned(rows)
        if not own:
            self.weights.save(step)
            return {"best_step": step}
        if folder.endswith(RETURNED):
            return {"best_step": self.step(own)}
        error = error_of_look(min(len(own), self.looks), self.looks)
        kept = next(row for row in own if row["step"] == self.step(own))
        decided = replacement(prompt_metrics_of(kept), found, self.reward, error, len(own))
        found_out = {"best_step": kept["step"], "best_error": error, "best_gain": list(decided.gain)}
        if decided.taken:
            self.weights.save(step)
            return found_out | {"best_step": step}
        return found_out | ({"best_passed": self._passed(step, kept["step"], decided)} if decided.too_dear else {})

    def _passed(self, step: int, kept: int, decided: Replacement) -> str:
        assert decided.diversity is not None
        return (f"{self.unit} {step} was higher than {self.unit} {kept} by {gain_in_words(decided.gain)}, which is not "
                f"clear, and its diversity lower by {percent(-decided.diversity, '')}, which is")

    def told(self, rows: list[dict], last: int) -> str:
        """In words: of which step the weights are, and whether they are better than the untrained ones."""
        own = without_returned(rows)
        start, kept = own[0], next(row for row in own if row["step"] == self.step(own))
        said = f"those of {self.unit} {kept['step']} of {last}, where {self.reward} was best"
        if kept is start:
            said += "; they are the untrained ones, which nothing later replaced"
        else:
            place = own.index(kept)
            error = kept.get("best_error", error_of_look(min(place, self.looks), self.looks))  # not of old runs
            gain = gain_over_start(prompt_metrics_of(start), prompt_metrics_of(kept), self.reward, error)
            said += (f"; {clearly(gain)} better than untrained: {gain_in_words(gain)}, an interval of 95 % that "
                     f"counts that it is the best of {len(own) - 1} looks")
            before = self.step(own[:place])
            if before != start["step"] and "best_gain" in kept:
                over = Estimate(*kept["best_gain"])
                said += f"; {clearly(over)} better than {self.unit} {before}, kept before it: {gain_in_words(over)}"
        return "; ".join([said, *(row["best_passed"] for row in own if "best_passed" in row)])


def without_returned(rows: list[dict]) -> list[dict]:
    """Measurements of weights that were not measured before."""
    return [row for row in rows if not row["folder"].endswith(RETURNED)]


def clearly(gain: Estimate) -> str:
    return "clearly" if gain.low > 0 else "not clearly"


def gain_in_words(gain: Estimate) -> str:
    if not math.isfinite(gain.high - gain.low):
        return f"{gain.value:+.4f}, without an interval, since one prompt says nothing of others"
    return str(gain)
