"""The trackers of a run: accelerate's, which beside numbers are shown samples and keep the verdict and the report.

    TensorBoard   events in RUN/logs; what a run that was cut wrote after its last checkpoint is hidden there
    W&B, MLflow   a run there, whose id is kept in RUN/trackers.json: a resumed run continues it

The first process alone has any, as the accelerator's own (`accelerator.log`). One that fails is left out with a notice
and never ends a run: everything it is told lies in the run's folder as well.
"""

import contextlib
import html
import importlib.util
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker
from PIL import Image
from pydantic import BaseModel

from visalign.errors import UserError, notice
from visalign.evaluation.held_out import samples_by_prompt
from visalign.evaluators.prompt_metrics import PromptMetrics, known_mean
from visalign.media.image_files import read_image
from visalign.media.samples import STRIP, Media, Sample, Video, frames_of
from visalign.media.source_images import words_of
from visalign.media.video_files import media_file
from visalign.storage.files import write_atomically
from visalign.storage.run_folder import RunFolder

MOST_SHOWN = 16
LONGEST_SIDE = 512
PROJECT = "visalign"
LONGEST_SETTING = 500
"""Characters of a setting that every version of MLflow's server takes."""


@dataclass(frozen=True)
class Exhibit:
    """A medium that is shown again and again under one name, and its caption."""

    name: str
    caption: str
    media: Media


class TensorBoardRun(TensorBoardTracker):
    """Events in the run's folder; videos are shown as strips of frames, and files are not kept."""

    run_id = None

    def __init__(self, run: RunFolder, run_id: str | None):
        kept = run.step_kept()
        super().__init__("logs", run.path, purge_step=None if kept is None else 1 + kept)

    def show(self, group: str, exhibits: list[Exhibit], step: int) -> None:
        for each in exhibits:
            frames = np.concatenate([np.asarray(frame.convert("RGB")) for frame in frames_of(each.media, STRIP)], 1)
            self.writer.add_image(f"{group}/{each.name}", frames, step, dataformats="HWC")
        self.writer.flush()

    def tell(self, group: str, text: str, step: int) -> None:
        self.writer.add_text(group, text, step)
        self.writer.flush()

    def keep(self, files: list[Path], figures: dict[str, str]) -> None:
        if figures:
            self.writer.add_text("verdict", "\n".join(f"- {name}: {text}" for name, text in figures.items()))
            self.writer.flush()


class WandBRun(WandBTracker):
    """A run of Weights & Biases; WANDB_PROJECT names another project than `visalign`."""

    def __init__(self, run: RunFolder, run_id: str | None):
        known = {"id": run_id, "resume": "allow"} if run_id else {}
        super().__init__(os.environ.get("WANDB_PROJECT", PROJECT), name=run.path.name, dir=str(run.path), **known)

    @property
    def run_id(self) -> str:
        return self.run.id

    def show(self, group: str, exhibits: list[Exhibit], step: int) -> None:
        import wandb

        def shown(each: Exhibit):
            if not isinstance(each.media, Video):
                return wandb.Image(each.media, caption=each.caption)
            suffix, content = media_file(each.media)
            return wandb.Video(io.BytesIO(content), caption=each.caption, format=suffix.removeprefix("."))

        self.run.log({group: [shown(each) for each in exhibits]}, step=step)

    def tell(self, group: str, text: str, step: int) -> None:
        import wandb

        self.run.log({group: wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def keep(self, files: list[Path], figures: dict[str, str]) -> None:
        import wandb

        artifact = wandb.Artifact(f"report-{self.run.id}", type="report")
        for file in files:
            artifact.add_file(str(file))
        self.run.log_artifact(artifact)
        self.run.summary.update(figures)


class MLflowRun(MLflowTracker):
    """A run of the MLflow server that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: RunFolder, run_id: str | None):
        super().__init__(PROJECT, run_id=run_id, run_name=run.path.name)

    def start(self) -> None:
        super().start()
        self.run_id = self.active_run.info.run_id

    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        super().log({re.sub(r"[^\w\-. /]", "_", name): value for name, value in values.items()}, step, **kwargs)

    def show(self, group: str, exhibits: list[Exhibit], step: int) -> None:
        import mlflow

        for each in exhibits:
            if not isinstance(each.media, Video):
                mlflow.log_image(each.media, key=re.sub(r"[^\w\-. /]", "_", f"{group}/{each.name}"), step=step)
                continue
            suffix, content = media_file(each.media)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / f"{each.name}{suffix}"
                file.write_bytes(content)
                self.log_artifact(str(file), f"{group}/step-{step:08d}")

    def tell(self, group: str, text: str, step: int) -> None:
        import mlflow

        mlflow.log_text(text, f"{group}/step-{step:08d}.md")

    def keep(self, files: list[Path], figures: dict[str, str]) -> None:
        import mlflow

        for file in files:
            self.log_artifact(str(file))
        mlflow.set_tags(figures)


class SafeTracker(GeneralTracker):
    """A tracker whose failure, whatever it is, is told once and leaves it out; the run goes on."""

    requires_logging_directory = False

    def __init__(self, inner: GeneralTracker):
        super().__init__(_blank=True)
        self.inner, self.name, self.lost = inner, inner.name, False

    @property
    def tracker(self):
        return self.inner.tracker

    def _try(self, verb: str, *arguments: Any, **options: Any) -> None:
        if self.lost:
            return
        try:
            getattr(self.inner, verb)(*arguments, **options)
        except Exception as error:  # whatever a service's client, its network or its disk raises
            self.lost = True
            notice(f"output.trackers {self.name}: failed ({_said(error)}) and is told nothing more; the run goes on, "
                   "its folder holds everything, and a run that is resumed opens the tracker again")

    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        self._try("log", values, step=step, **kwargs)

    def show(self, group: str, exhibits: list[Exhibit], step: int) -> None:
        self._try("show", group, exhibits, step)

    def tell(self, group: str, text: str, step: int) -> None:
        self._try("tell", group, text, step)

    def keep(self, files: list[Path], figures: dict[str, str]) -> None:
        self._try("keep", files, figures)

    def finish(self) -> None:
        self._try("finish")


TRACKERS = {"tensorboard": TensorBoardRun, "wandb": WandBRun, "mlflow": MLflowRun}


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def check_trackers(names: Iterable[str]) -> None:
    """Raise UserError naming the command that installs a tracker which is not there."""
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # the latter is a folder of that name, such as W&B leaves
            raise UserError(f"output.trackers {name} needs the package {name}: pip install 'visalign[trackers]'")


@contextlib.contextmanager
def tracked(accelerator: Accelerator, names: Iterable[str], settings: BaseModel, run: RunFolder) -> Iterator[None]:
    """A context in which the first process's accelerator has these trackers; one that fails still finishes them.

    Raises UserError when one cannot be opened.
    """
    accelerator.trackers = []
    try:
        if run.is_main:
            accelerator.trackers += open_trackers(names, settings, run)
        yield
    except BaseException:
        for tracker in accelerator.trackers:
            tracker.finish()
        raise


def open_trackers(names: Iterable[str], settings: BaseModel, run: RunFolder) -> Iterator[SafeTracker]:
    """Trackers, each told the run's settings once. Raises UserError when one cannot be opened."""
    file = run.path / "trackers.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        ids = {name: known.get(name) for name in names}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"run {file}: cannot be read ({error}); delete it to begin another run with the trackers"
                        ) from None
    for name, run_id in ids.items():
        tracker = TRACKERS[name](run, run_id)
        try:
            tracker.start()
            if name not in known:
                tracker.store_init_configuration(_flat(settings.model_dump(mode="json")))
        except Exception as error:
            raise UserError(f"output.trackers {name}: could not be opened ({_said(error)}); log in or start its "
                            "server, or leave it out of output.trackers") from None
        known[name] = tracker.run_id
        write_atomically(file, (json.dumps(known, indent=2) + "\n").encode())
        yield SafeTracker(tracker)


def _flat(settings: dict, above: str = "") -> dict[str, Any]:
    """Settings by dotted name; what is no number, text or switch as JSON."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{above}{name}.")
        else:
            simple = isinstance(value, bool | int | float)
            flat[above + name] = value if simple else str(value if isinstance(value, str) else json.dumps(value))[
                :LONGEST_SETTING]
    return flat


def show_held_out(accelerator: Accelerator, found: PromptMetrics, samples: list[Sample], step: int) -> None:
    """Means of what was measured, and samples: at most MOST_SHOWN, one of every prompt before any has two."""
    accelerator.log({f"held_out/{name}": known_mean(values) for name, values in found.values.items()}, step=step)
    if not accelerator.trackers:
        return
    turns = zip_longest(*samples_by_prompt(samples))
    shown = [(i, j, each) for j, turn in enumerate(turns) for i, each in enumerate(turn) if each is not None]
    if samples[0].answer is not None:
        words = "\n\n".join(f"**{each.prompt}**\n\n{each.answer}" for _, j, each in sorted(
            shown, key=lambda one: one[:2]) if j == 0)
        for tracker in accelerator.trackers:
            tracker.tell("samples", words, step)
        return
    exhibits = [Exhibit(f"{i:03d}-{j}", words_of(each.source_prompt), shrunk_media(each.media, LONGEST_SIDE))
                for i, j, each in sorted(shown[:MOST_SHOWN], key=lambda one: one[:2])]
    for tracker in accelerator.trackers:
        tracker.show("samples", exhibits, step)


def show_rollouts(accelerator: Accelerator, run: RunFolder, epoch: int) -> None:
    """The contact sheet of an epoch's own samples, where the loop has left one."""
    file = run.path / "rollouts" / f"epoch-{epoch:06d}.png"
    if not accelerator.trackers or not file.exists():
        return
    exhibit = Exhibit("own", f"epoch {epoch}", shrunk_media(read_image(file, str(file)), 4 * LONGEST_SIDE))
    for tracker in accelerator.trackers:
        tracker.show("rollouts", [exhibit], epoch)


def keep_results(accelerator: Accelerator, run: RunFolder, names: Iterable[str], figures: dict[str, str]) -> None:
    """Those of the named files that the run's folder holds, and what the run came to, in words."""
    files = [run.path / name for name in names if (run.path / name).exists()]
    for tracker in accelerator.trackers:
        tracker.keep(files, figures)


def shrunk_media(media: Media, side: int) -> Media:
    """The image or video, no side of it longer than `side` pixels."""
    if isinstance(media, Video):
        return replace(media, frames=[shrunk_media(frame, side) for frame in media.frames])
    small: Image.Image = media.copy()
    small.thumbnail((side, side))
    return small
