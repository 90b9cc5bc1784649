"""A run's folder: settings, metrics, checkpoints, samples, export and report; everything in it is written atomically.

    run/
      config.yaml      the resolved settings          metrics.jsonl    one line a step or evaluation
      pairs.parquet    pairs the run made             samples/step-N/  images on fixed seeds
      checkpoints/     step-N folders                 export/          diffusers weights and model card
      report.html      before and after               rollouts/        samples of online runs
      guard/           the guard's measurements, and the best weights it may return to
      best/            weights of eval.keep_best      subject/         photographs and images of data.subject
      data.json        a digest of the training data, which a resumed run must match
      skipped.jsonl    rows that could not be used (data.on_error=skip)
      started.json     what the run started from, such as a fingerprint of the model
      verdict.json     the verdict of a finished run  trackers.json    ids of its runs with W&B and MLflow
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel
from safetensors import SafetensorError

from visalign.errors import UserError
from visalign.storage.files import free_space, is_full, size_in_words, sync, write_atomically
from visalign.storage.old_names import with_new_metrics
from visalign.storage.resuming import check_settings, nothing_there
from visalign.storage.yaml_files import dump_yaml

CHECKPOINT_LIST = "files.json"
"""In a checkpoint: name, size and hash of every other file."""

AT_A_START = ("start", "self_check")
"""Rows that are logged again when a run continues at their step."""


class RunFolder:
    """Opens a folder for a run.

    Raises UserError when the folder holds an earlier run and `resume` is off, when it holds none and `resume` is on,
    when settings differ that must not, or when it cannot be written.
    """

    def __init__(self, path: str | Path, config: BaseModel, resume: bool = False, is_main: bool = True):
        self.path = Path(path).expanduser()
        self.is_main = is_main
        if is_main:
            self._open(config, resume)

    def _open(self, config: BaseModel, resume: bool) -> None:
        used = holds_run(self.path)
        if used and not resume:
            raise UserError(f"output.folder {self.path}: already holds a run; continue it with --resume, or begin "
                            f"another with output.folder={self.path}-2")
        if resume and not used:
            raise nothing_there(self.path)
        if used:
            check_settings(self.path, config)
            self.metrics()
        try:
            for name in ("checkpoints", "samples"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            self.keep_settings(config)
        except OSError as error:
            raise UserError(f"output.folder {self.path}: cannot be written ({error.strerror})") from None
        for leftover in (self.path / "checkpoints").glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def keep_settings(self, config: BaseModel) -> None:
        """Write config.yaml, of which everything is known now."""
        if self.is_main:
            write_atomically(self.path / "config.yaml", dump_yaml(config.model_dump(mode="json")).encode())

    def started_from(self, name: str, value: str) -> str:
        """A value recorded at the run's first start: the one recorded then."""
        file = self.path / "started.json"
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = {}
        except (OSError, ValueError) as error:
            raise UserError(f"run {file}: cannot be read ({error}); delete it to resume without comparing") from None
        if name not in known and self.is_main:
            write_atomically(file, (json.dumps(known | {name: value}, indent=2) + "\n").encode())
        return known.get(name, value)

    def log(self, row: dict) -> None:
        """Append one line to metrics.jsonl. Raises UserError when the disk is full."""
        if not self.is_main:
            return
        try:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(f"run {self.path}: metrics.jsonl cannot be written ({error.strerror}); "
                            f"{self.last_good()}, continue with --resume") from None

    def metrics(self) -> list[dict]:
        return read_metrics(self.path)

    def forget_after(self, step: int) -> None:
        """Drop metrics later than a checkpoint, so that a resumed run logs everything once."""
        if self.is_main and (self.path / "metrics.jsonl").exists():
            kept = [row for row in self.metrics()
                    if row["step"] < step or (row["step"] == step and row["kind"] not in AT_A_START)]
            write_atomically(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept).encode())

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return [folder for folder in self.checkpoint_folders() if (folder / "state.json").exists()]

    def checkpoint_folders(self) -> list[Path]:
        """All checkpoints, including incomplete ones, oldest first."""
        return sorted(folder for folder in (self.path / "checkpoints").glob("step-*") if folder.is_dir())

    def step_kept(self) -> int | None:
        """The step of the newest complete checkpoint, of this package's loops or of TRL's; None before the first."""
        files = [file for name in ("step-*/state.json", "checkpoint-*/trainer_state.json")
                 for file in (self.path / "checkpoints").glob(name)]
        return max((int(file.parent.name.rpartition("-")[2]) for file in files), default=None)

    def last_good(self) -> str:
        """Which checkpoint to go back to, in words."""
        kept = self.checkpoints()
        return f"the last good checkpoint is {kept[-1]}" if kept else "there is no earlier checkpoint"

    def set_aside(self, folder: Path) -> Path:
        """Rename a broken checkpoint, so that nothing reads it."""
        aside = folder.with_name(f"broken-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
        return aside

    def save_checkpoint(self, step: int, write: Callable[[Path], None], keep: int) -> None:
        """Let `write` fill a temporary folder, then rename it; older checkpoints beyond `keep` go only after that.

        Raises UserError when the disk is full or not writable; earlier checkpoints are intact then. Where each process
        writes its part, `write` is what they do together, and the first one does all else.
        """
        final = self.path / "checkpoints" / f"step-{step:08d}"
        temporary = self.path / "checkpoints" / f".tmp-{final.name}"
        if not self.is_main:
            write(temporary)
            return
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            write(temporary)
            (temporary / CHECKPOINT_LIST).write_text(json.dumps(described(temporary), indent=2) + "\n",
                                                     encoding="utf-8")
            for file in (*temporary.iterdir(), temporary, *self.path.glob("metrics.jsonl")):
                sync(file)
            if final.exists():
                os.replace(final, temporary.with_name(f".tmp-old-{final.name}"))
            os.replace(temporary, final)
            sync(final.parent)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            if is_full(error, self.path):
                reason = f"the disk is full, {size_in_words(free_space(self.path))} free"
            shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(f"checkpoint {final}: could not be saved ({reason}); {self.last_good()}, fix that and "
                            "continue with --resume") from None
        for old in [*final.parent.glob(".tmp-old-*"), *(self.checkpoints()[:-keep] if keep else [])]:
            shutil.rmtree(old)


def holds_run(folder: str | Path) -> bool:
    """Whether a run was begun in a folder."""
    return (Path(folder).expanduser() / "config.yaml").exists()


def described(folder: Path) -> dict[str, dict]:
    """Size and hash of every file in a folder, by name."""
    found = {}
    for file in sorted(folder.iterdir()):
        digest = hashlib.sha256()
        with file.open("rb") as content:
            while part := content.read(2**22):
                digest.update(part)
        found[file.name] = {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}
    return found


def fault_of(folder: Path) -> str | None:
    """What a checkpoint lacks of what was written, or None; those of versions that kept no list are trusted."""
    try:
        if not (folder / "state.json").is_file():
            return "state.json is missing"
        if not (folder / CHECKPOINT_LIST).is_file():
            return None
        wanted = json.loads((folder / CHECKPOINT_LIST).read_text(encoding="utf-8"))
        for name, what in wanted.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != what["bytes"]:
                return f"{name} has {file.stat().st_size} bytes and had {what['bytes']}"
        found = described(folder)
        return next((f"{name} is not what was written" for name in wanted if found[name] != wanted[name]), None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return " ".join(str(error).split())[:150]


def read_metrics(folder: Path) -> list[dict]:
    """Rows of a run's metrics.jsonl; [] before it has any. An incomplete last line is left out.

    Raises UserError naming any other line that is not a row.
    """
    file, rows = folder / "metrics.jsonl", []
    if not file.is_file():
        return []
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"run {file}: cannot be read ({error.strerror})") from None
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row["step"], int) or not isinstance(row["kind"], str):
                raise ValueError
            rows.append(with_new_metrics(row))
        except (ValueError, KeyError, RecursionError):
            if number < len(lines):
                raise UserError(f"run {file}: line {number} is not a row of metrics; delete that line") from None
    return rows
