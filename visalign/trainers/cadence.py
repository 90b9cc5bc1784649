"""When a run is measured: before training, every `eval.every` units, when the guard is due, and after it."""

import time

from visalign.evaluation.held_out import HeldOut, check_same, refuse_blind, save_samples
from visalign.evaluators.prompt_metrics import prompt_metrics_of
from visalign.trainers.base import GeneratorTrainer
from visalign.trainers.guard import Guard


class Cadence:
    """One run from its first measurement to its last; measurements of an earlier, stopped session are not repeated."""

    def __init__(self, trainer: GeneratorTrainer, held_out: HeldOut, started: float):
        self.trainer, self.held_out, self.started = trainer, held_out, started
        self.guard = Guard(trainer, held_out)
        self._done = {row["folder"] for row in self._rows}

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
        return ended

    def after(self, step: int) -> bool:
        """What is due after a unit; whether the guard ends the run."""
        every, last = self.trainer.config.eval.every, self.trainer.config.train.steps
        if step == 0 or (every and step % every == 0 and step < last):
            self.evaluate(step)
        return self.guard.check(step)

    def evaluate(self, step: int, returned_to: int | None = None) -> None:
        """Measure and keep held-out samples, on the first process while the others wait."""
        folder = f"step-{step:08d}" + ("" if returned_to is None else "-returned")
        if self.trainer.accelerator.is_main_process and folder not in self._done:
            self._done.add(folder)
            self._evaluate(step, folder)
        self.trainer.accelerator.wait_for_everyone()

    def _evaluate(self, step: int, folder: str) -> None:
        trainer, rows = self.trainer, self._rows
        with trainer.measuring() as generator:
            found, samples = self.held_out.look(generator, f"samples, step {step}")
            if rows:
                check_same(prompt_metrics_of(rows[0]), found, "eval")
            else:
                refuse_blind(found)
            save_samples(samples, trainer.run.path / "samples" / folder)
            trainer.run.log({"kind": "held_out", "step": step, "folder": folder, **found.as_dict(),
                             **trainer.held_out_metrics(), "seconds_so_far": time.time() - self.started})
