"""What a run came to: how held-out samples changed, the verdict, and both in words."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from visalign.evaluators import Estimate, Verdict, VerdictLimits, mean_with_interval, verdict_of
from visalign.evaluators.prompt_metrics import paired, prompt_metrics_of
from visalign.evaluators.text_length import EqualLength
from visalign.storage.run_folder import RunFolder

VERDICT = "verdict.json"


@dataclass(frozen=True)
class Result:
    """Where a run lies and what it changed on held-out prompts (None where not measured).

    ended: what the guard did to it, in words, when it ended the run. kept: of which step its weights are, in words,
    where the best are kept.
    """

    folder: Path
    reward_change: Estimate | None
    diversity_change: Estimate | None
    other_changes: dict[str, Estimate]
    verdict: Verdict
    implicit_accuracy: float | None
    seconds: float
    ended: str | None = None
    kept: str | None = None


def summarise(run: RunFolder, started: float, proxy: str | None, limits: VerdictLimits, ended: str | None,
              equal_length: Callable[[list[dict]], EqualLength | None] | None = None,
              kept: str | None = None) -> Result:
    """Change from before to after per held-out prompt, with bootstrap intervals, and the verdict.

    equal_length: of texts, what the held-out rows' answers measure when they are cut to one length; asked for where a
    verdict is not healthy, whose reasons then say what of a fall is left.
    """
    rows = [row for row in run.metrics() if row["kind"] == "held_out"]
    before, after = (prompt_metrics_of(row) for row in (rows[0], rows[-1]))

    def change(metric: str) -> Estimate | None:
        if metric not in before.values:
            return None
        first, last = paired(before, after, metric)
        return mean_with_interval(last - first) if len(first) else None

    verdict = verdict_of(before, after, proxy, limits)
    if equal_length and verdict.word != "healthy":
        verdict = verdict_of(before, after, proxy, limits, equal_length(rows))
    others = {name: change(f"reward/{name}") for name in before.names("reward") if name != proxy}
    return Result(run.path, change(f"reward/{proxy}"), change("diversity/distance"), others,
                  verdict, rows[-1].get("held_out/implicit_accuracy"),
                  time.time() - started, ended, kept)


def result_figures(result: Result) -> dict[str, str]:
    """The numbers that matter, as text."""
    texts = {"reward change": result.reward_change, "diversity change": result.diversity_change}
    texts |= {f"{name} change": change for name, change in result.other_changes.items()}
    numbers = {name: f"{value} (95 % interval)" for name, value in texts.items() if value is not None}
    numbers["verdict"] = result.verdict.word
    if result.ended:
        numbers["ended early"] = result.ended
    if result.kept:
        numbers["weights"] = result.kept
    if result.implicit_accuracy is not None:
        numbers["implicit accuracy on held-out pairs"] = f"{result.implicit_accuracy:.3f}"
    return numbers
