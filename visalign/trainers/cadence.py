"""When a run is measured: before training, every `eval.every` units, when the guard is due, and after it; and of which
moment its weights are in the end."""

import time
from dataclasses import replace

from visalign.evaluation.held_out import HeldOut, check_same, refuse_blind, save_samples
from visalign.evaluators.prompt_metrics import prompt_metrics_of
from visalign.parallel.sharing import doing
from visalign.trainers.best import RETURNED, Best
from visalign.trainers.followed import FollowedTrainer
from visalign.trainers.guard import Guard
from visalign.trainers.tracking import show_held_out, show_rollouts


class Cadence:
    """One run from its first measurement to its last; measurements of an earlier, stopped session are not repeated."""

    def __init__(self, trainer: FollowedTrainer, held_out: HeldOut, started: float):
        self.trainer, self.processes, self.started = trainer, trainer.engine.processes, started
        self.held_out = replace(held_out, processes=self.processes)
        self.guard = Guard(trainer, self.held_out)
        self._done = {row["folder"] for row in self._rows}
        wanted = getattr(trainer.config.eval, "keep_best", None)
        self.best = Best(trainer, wanted) if wanted else None
        self.kept: str | None = None

    @property
    def _rows(self) -> list[dict]:
        return [row for row in self.trainer.run.metrics() if row["kind"] == "held_out"]

    def follow(self) -> str | None:
        """Measure, train, measure; returns, in words, how the guard ended the run, or None."""
        trainer, ended, back = self.trainer, None, None
        if self.after(trainer.state.step) or trainer.fit(self.after):
            trainer.checkpoints.save_if_new()
            back = self.guard.roll_back()
            ended = f"the guard stopped the run at step {trainer.state.step}" + (
                "" if back is None else f" and returned to step {back}")
        self.evaluate(trainer.state.step, back)
        self._return_to_best(trainer.state.step)
        return ended

    def _return_to_best(self, last: int) -> None:
        """End with the best weights, measured once more where they are not the last; `kept` says which they are."""
        if self.best is None:
            return
        rows = self.processes.told_by_first(lambda: self._rows)
        best, self.kept = self.best.step(rows), self.best.told(rows, last)
        if best != last:
            self.best.weights.put_back(best)
            self.evaluate(last, best)

    def after(self, step: int) -> bool:
        """What is due after a unit; whether the guard ends the run."""
        every, last = self.trainer.config.eval.every, self.trainer.config.train.steps
        show_rollouts(self.trainer.accelerator, self.trainer.run, step)
        if step == 0 or (every and step % every == 0 and step < last):
            self.evaluate(step)
        return self.guard.check(step)

    def evaluate(self, step: int, returned_to: int | None = None) -> None:
        """Measure and keep held-out samples; the processes share the work."""
        folder = f"step-{step:08d}" + ("" if returned_to is None else RETURNED)
        if not self.processes.told_by_first(lambda: folder in self._done):
            self._done.add(folder)
            doing(f"measuring held-out samples, {self.trainer.unit} {step}")
            self._evaluate(step, folder)
        self.trainer.accelerator.wait_for_everyone()

    def _evaluate(self, step: int, folder: str) -> None:
        trainer, rows = self.trainer, self.processes.told_by_first(lambda: self._rows)
        first = next(iter(rows), None)
        with trainer.measuring() as generator:
            found, samples = self.held_out.look(generator, f"samples, step {step}")
            if first:
                check_same(prompt_metrics_of(first), found, "eval")
            else:
                refuse_blind(found)
            if self.processes.is_first:
                save_samples(samples, trainer.run.path / "samples" / folder)
            further = trainer.held_out_metrics()
        best = self.best.look(rows, step, folder, found) if self.best else {}
        trainer.run.log({"kind": "held_out", "step": step, "folder": folder, **found.as_dict(), **further, **best,
                         "seconds_so_far": time.time() - self.started})
        show_held_out(trainer.accelerator, found, samples, step)
