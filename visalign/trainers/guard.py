"""The collapse guard: every n steps the run is compared with its start on fixed held-out prompts.

    warn       print it and continue    stop       end the run, keep its last weights
    rollback   end the run and return to the best point on the reward-diversity front that was still acceptable

It uses other seeds than the run's evaluation, so that its choice is still evaluated on samples it has not seen.
Online runs also measure the groups that they learn from, after every epoch: when diversity seems to fall there, or
style to drift, the guard looks before it is due, and closely: at all that it measured of the start, which is several
times as many prompts, or, where there are no more, sets of seeds. Where asked to, they have held-out rewards score some
of them as well (`guard.watch_rewards`), and offline runs measure errors of held-out pairs (`guard.watch_pairs`). A look
that was due is made closely, too, where something is beyond its limit by the mean and not clearly.
Everything it knows is in metrics.jsonl and guard/, so a run that is killed continues to the same decisions.
"""

import math
import time
from dataclasses import replace

from tqdm import tqdm

from visalign.config import OfflineConfig, OnlineConfig
from visalign.data.prompts import count_prompts
from visalign.data.text_generations import write_answers
from visalign.errors import UserError
from visalign.evaluation.held_out import HeldOut, check_same, samples_by_prompt
from visalign.evaluators.looks import OneOfMany
from visalign.evaluators.prompt_metrics import (
    PromptMetrics,
    fewest_prompts,
    known_mean,
    mean_over_seeds,
    prompt_metrics_of,
)
from visalign.evaluators.verdict import (
    DIVERSITY,
    Verdict,
    VerdictLimits,
    best_point,
    repeated_look,
    unplanned_look,
    unsure_of,
    verdict_of,
)
from visalign.generators.base import Generator
from visalign.media.samples import Sample
from visalign.media.source_images import sheet_row
from visalign.media.video_files import save_sheet
from visalign.parallel.sharing import doing
from visalign.sampling.seeds import second_seed
from visalign.trainers.cost import passes_of_look, passes_of_step
from visalign.trainers.followed import FollowedTrainer
from visalign.trainers.kept_weights import KeptWeights

PROMPTS_DRAWN = 8
BETWEEN = 0.25
"""Of the steps between planned looks: the fewest from any look to one that is not planned, and by how much longer a
close look that stays unsure makes the next one wait; one that finds nothing does so by all of them."""


def interval_of(config: OfflineConfig | OnlineConfig, objective, world: int = 1) -> int:
    """Steps between measurements: `guard.every`, or the fewest that keep their cost within `guard.cost` of training's
    passes.

    Processes share both, and each makes as many offline steps as one would.
    """
    guard, settings = config.guard, config.eval
    if guard.every or guard.action == "off":
        return guard.every
    prompts = count_prompts(settings.prompts, guard.max_prompts)
    look = passes_of_look(prompts, guard.samples_per_prompt, settings.steps, settings.guidance_scale)
    step = passes_of_step(config, objective) * (1 if config.loop == "online" else world)
    return max(1, math.ceil(look / (guard.cost * step)))


def check_guard(config: OfflineConfig | OnlineConfig) -> None:
    """Raise UserError when the guard is on without a model of features."""
    if config.guard.action != "off" and not config.eval.features:
        raise UserError("guard.action is on, but eval.features is not set; name the open_clip model that measures "
                        "diversity, such as tiny-clip or clip:ViT-L-14/openai")


class Guard:
    """Compares a run with its start when it is due, and says when to stop."""

    def __init__(self, trainer: FollowedTrainer, held_out: HeldOut):
        config, self.settings = trainer.config, trainer.config.guard
        self.trainer, self.run, self.state, self.accelerator = trainer, trainer.run, trainer.state, trainer.accelerator
        self.limits = VerdictLimits(self.settings.budget, self.settings.drift, self.settings.tolerance)
        self.processes, self.watch = trainer.engine.processes, trainer.watch
        self.every = interval_of(config, trainer.objective, self.processes.world)
        self.last = config.train.steps
        self.held_out = replace(held_out, settings=config.eval.model_copy(update={
            "max_prompts": self.settings.max_prompts, "samples_per_prompt": self.settings.samples_per_prompt,
            "seed": second_seed(config.eval.seed)}))
        self.folder = self.run.path / "guard"
        self.weights = KeptWeights("guard", self.folder, self.state, self.processes)

    @property
    def rows(self) -> list[dict]:
        return [row for row in self.run.metrics() if row["kind"] == "guard"]

    @property
    def sees_more_closely(self) -> bool:
        """Whether a close look knows more than one that was due."""
        return self.settings.start_sets > 1

    def check(self, step: int) -> bool:
        """Measure if it is due and not done yet; whether the run is to stop, equal in every process."""
        if self.settings.action == "off":
            return False
        planned = step % self.every == 0 or step == self.last
        suspicion = None if planned or self.watch is None else self.watch.suspicion(self.limits)
        if not planned and not (suspicion and suspicion.suspicious):
            return False
        rows = self.processes.told_by_first(lambda: self.rows)
        known = next((row for row in rows if row["step"] == step), None)
        if known is None and suspicion and self._too_soon(step, rows):
            return False
        row = known or self._look(step, rows, suspicion.words if suspicion else None)
        return row["verdict"]["word"] in ("collapsed", "hacked") and self.settings.action != "warn"

    def _too_soon(self, step: int, rows: list[dict]) -> bool:
        """Whether a look that was not planned has to wait: a little after any other, and as any close one."""
        return step - rows[-1]["step"] < self.every * BETWEEN or self._too_soon_to_be_close(step, rows)

    def _too_soon_to_be_close(self, step: int, rows: list[dict]) -> bool:
        """Each close look waits longer than the one before: suspicions that do not come true cost ever less."""
        before = [row for row in rows if "suspicion" in row]
        wait = sum(BETWEEN if row.get("unsure") else 1 for row in before)
        return bool(before) and step - before[-1]["step"] < self.every * wait

    def _look(self, step: int, rows: list[dict], suspicion: str | None) -> dict:
        started = time.perf_counter()
        doing(f"guard, {self.trainer.unit} {step}")
        if suspicion and self.processes.is_first:
            tqdm.write(f"guard, step {step}: looks before it is due, since {suspicion}")
        planned = math.ceil(self.last / self.every)
        moments = planned * self.sees_more_closely + (self.watch.moments if self.watch else 0)
        intervals = unplanned_look(moments) if suspicion else repeated_look(
            planned, max(1, math.ceil(step / self.every)), moments)
        with self.trainer.measuring() as generator:
            held, samples, verdict = self._compared(generator, step, rows, bool(suspicion), intervals)
            doubt = None if suspicion else self._second_thought(verdict, step, rows)
            if doubt:
                suspicion, intervals = doubt, unplanned_look(moments)
                held, samples, verdict = self._compared(generator, step, rows, True, intervals)
        row = {"kind": "guard", "step": step, "error": intervals.error, "verdict": verdict.as_dict(), **held.as_dict()}
        row |= {"suspicion": suspicion, "unsure": bool(unsure_of(verdict, self.limits))} if suspicion else {}
        points = points_of([*rows, row], self.limits.budget)
        if best_point(points) == len(points) - 1:
            self._keep_weights(step)
        row["seconds"] = time.perf_counter() - started
        if self.processes.is_first:
            self._tell(step, samples, row, verdict)
        logged = held.first(self.settings.max_prompts).values
        self.accelerator.log({f"guard/{name}": known_mean(values) for name, values in logged.items()}, step=step)
        return row

    def _second_thought(self, verdict: Verdict, step: int, rows: list[dict]) -> str | None:
        """Why a look that was due has to be made closely, if it has."""
        may = rows and self.sees_more_closely and not self._too_soon_to_be_close(step, rows)
        words = unsure_of(verdict, self.limits) if may else None
        if words and self.processes.is_first:
            tqdm.write(f"guard, step {step}: looks closely, since {words}")
        return words

    def _compared(self, generator: Generator, step: int, rows: list[dict], closely: bool,
                  intervals: OneOfMany) -> tuple[PromptMetrics, list[Sample], Verdict]:
        """What is measured now, with samples, and the verdict on it against the start, which is measured if there is
        none yet."""
        held, samples = self._measured(generator, f"guard, step {step}", rows, closely or not rows)
        base = prompt_metrics_of(rows[0]).first(len(held.prompts)) if rows else held
        check_same(base, held, "guard")
        return held, samples, verdict_of(base, held, self.held_out.proxy, self.limits, intervals=intervals)

    def _measured(self, generator: Generator, label: str, rows: list[dict],
                  closely: bool) -> tuple[PromptMetrics, list[Sample]]:
        """The mean over sets of seeds, and samples of the first."""
        prompts, sets = self._close_look(rows) if closely else (self.settings.max_prompts, 1)
        settings, found = self.held_out.settings.model_copy(update={"max_prompts": prompts}), []
        for number in range(1, sets + 1):
            name = f"{label}, seeds {number} of {sets}" if number > 1 else label
            found.append(replace(self.held_out, settings=settings).look(generator, name))
            settings = settings.model_copy(update={"seed": second_seed(settings.seed)})
        return mean_over_seeds([held for held, _ in found]), found[0][1]

    def _close_look(self, rows: list[dict]) -> tuple[int, int]:
        """Prompts and sets of seeds of the start and of what is compared with it closely: `start_sets` times a look's
        prompts, or as many as there are, on more seeds."""
        source, usual = self.held_out.settings.prompts, self.settings.max_prompts
        allowed = count_prompts(source, usual) * self.settings.start_sets
        prompts = len(rows[0]["prompts"]) if rows else count_prompts(source, allowed)
        return prompts, max(1, allowed // prompts)

    def _tell(self, step: int, samples: list[Sample], row: dict, verdict: Verdict) -> None:
        """Leave what was found: a row, and samples of the first prompts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = samples_by_prompt(samples)[:PROMPTS_DRAWN]
        if samples[0].answer is None:
            save_sheet(list(map(sheet_row, rows)), self.folder / f"step-{step:08d}.png")
        else:
            write_answers(samples, self.folder / f"step-{step:08d}")
        if verdict.bad:
            tqdm.write(f"guard, step {step}: {verdict.word}; {'; '.join(verdict.reasons)}")
        self.run.log(row)

    def _keep_weights(self, step: int) -> None:
        """Save the weights of the best acceptable point so far, including the start."""
        if self.settings.action != "rollback":
            return
        self.weights.save(step)

    def roll_back(self) -> int | None:
        """Put the best acceptable weights back in every process; returns their step, None when rolling back is off.

        Raises UserError when the kept weights are not those of that step.
        """
        if self.settings.action != "rollback":
            return None
        rows = self.processes.told_by_first(lambda: self.rows)
        step = rows[best_point(points_of(rows, self.limits.budget))]["step"]
        self.weights.put_back(step)
        return step


def points_of(rows: list[dict], budget: float) -> list[tuple[float, float, bool]]:
    """(reward, diversity, acceptable) of each measurement; without an optimised reward the later point counts as
    higher.

    A point is acceptable when its verdict is not bad and its diversity, by the point estimate, is within the budget.
    """
    points, count = [], fewest_prompts(rows)
    for i, row in enumerate(rows):
        verdict, values = row["verdict"], {name: each[:count] for name, each in row["values"].items()}
        reward = known_mean(values[f"reward/{verdict['proxy']}"]) if verdict["proxy"] else float(i)
        lost = -verdict["diversity"][0] if verdict["diversity"] else 0.0
        acceptable = verdict["word"] not in ("collapsed", "hacked") and lost <= budget
        reward = -math.inf if math.isnan(reward) else reward
        points.append((reward, known_mean(values.get(DIVERSITY, [0.0])), acceptable))
    return points
