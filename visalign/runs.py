"""A run's folder: settings, metrics, checkpoints, samples, export and report; nothing in it is ever half-written.

    run/
      config.yaml      the resolved settings          metrics.jsonl    one line a step or evaluation
      pairs.parquet    pairs made by feedback         samples/step-N/  pictures on fixed seeds
      checkpoints/     step-N folders                 export/          diffusers weights and model card
      report.html      before and after               rollouts/        own samples of online runs
      guard/           what the guard saw, and the best weights it may return to
      data.json        a digest of what is learnt from, which a resumed run must find again
      skipped.jsonl    rows that could not be used (data.on_error=skip)
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from visalign.config import Config
from visalign.errors import UserError
from visalign.yamlfile import dump_yaml, read_mapping

MAY_CHANGE = frozenset({"train.steps", "train.epochs", "train.device", "data.cache", "rollout.cache",
                        "reward.timeout", "reward.retries", "reward.retry_wait", "reward.max_failures"})
"""Settings a resumed run may have otherwise than the run it continues."""


class RunFolder:
    """Opens a folder for a run.

    Raises UserError when the folder holds an earlier run and `resume` is off, or when it cannot be written.
    """

    def __init__(self, path: str | Path, config: Config, resume: bool = False, is_main: bool = True):
        self.path = Path(path).expanduser()
        self.is_main = is_main
        if is_main:
            self._open(config, resume)

    def _open(self, config: Config, resume: bool) -> None:
        used = (self.path / "config.yaml").exists()
        if used and not resume:
            raise UserError(f"output.folder {self.path}: already holds a run; continue it with --resume, or choose "
                            "another folder with output.folder=...")
        settings = config.model_dump(mode="json")
        if used:
            earlier = read_mapping(self.path / "config.yaml", "run")
            changed = [f"{section}.{key}" for section in sorted(settings.keys() - {"eval", "guard", "output"})
                       for key in settings[section] | earlier.get(section, {})
                       if settings[section].get(key) != earlier.get(section, {}).get(key)
                       and f"{section}.{key}" not in MAY_CHANGE]
            if changed:
                raise UserError(f"output.folder {self.path}: cannot resume, {changed[0]} differs from the run that was "
                                "started there; use the same settings or a new folder")
        try:
            for name in ("checkpoints", "samples"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "config.yaml", dump_yaml(settings).encode())
        except OSError as error:
            raise UserError(f"output.folder {self.path}: cannot be written ({error.strerror})") from None
        for leftover in (self.path / "checkpoints").glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def log(self, row: dict) -> None:
        """Append one line to metrics.jsonl."""
        if self.is_main:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict]:
        return read_metrics(self.path)

    def forget_after(self, step: int) -> None:
        """Drop metrics later than a checkpoint, so that a resumed run logs each step once."""
        if self.is_main and (self.path / "metrics.jsonl").exists():
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            write_atomically(self.path / "metrics.jsonl", "".join(line + "\n" for line in kept).encode())

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in (self.path / "checkpoints").glob("step-*") if (p / "state.json").exists())

    def save_checkpoint(self, step: int, write: Callable[[Path], None], keep: int) -> None:
        """Let `write` fill a temporary folder, then rename it; older checkpoints beyond `keep` go only after that.

        Raises UserError when the disk is full or not writable; earlier checkpoints are intact then.
        """
        final = self.path / "checkpoints" / f"step-{step:08d}"
        temporary = self.path / "checkpoints" / f".tmp-{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            write(temporary)
            for file in temporary.iterdir():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            if final.exists():
                shutil.rmtree(final)
            os.replace(temporary, final)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            shutil.rmtree(temporary, ignore_errors=True)
            kept = self.checkpoints()
            reason = "the disk is full" if getattr(error, "errno", None) == errno.ENOSPC else str(error)[:200]
            last = f"the last good one is {kept[-1]}" if kept else "there is no earlier one"
            raise UserError(f"checkpoint {final}: could not be saved ({reason}); {last}") from None
        for old in self.checkpoints()[:-keep] if keep else []:
            shutil.rmtree(old)


def read_metrics(folder: Path) -> list[dict]:
    """Rows of a run's metrics.jsonl; [] before it has any."""
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
