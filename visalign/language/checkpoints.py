"""Checkpoints that TRL's loop writes, `checkpoint-N` below a run: which are whole, the newest, and what goes with them.

The loop writes `trainer_state.json` last, so a folder without it was being written when the run was killed.
"""

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from visalign.errors import UserError, notice
from visalign.storage.run_folder import RunFolder

BESIDE_WEIGHTS = "beside.safetensors"
COMPLETE = "trainer_state.json"


def kept_checkpoints(run: RunFolder) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return [folder for folder in _folders(run) if (folder / COMPLETE).is_file()]


def _folders(run: RunFolder) -> list[Path]:
    found = [folder for folder in (run.path / "checkpoints").glob("checkpoint-*")
             if folder.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=step_of_folder)


def step_of_folder(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def newest_checkpoint(run: RunFolder, last: int) -> Path | None:
    """The checkpoint to continue from, None before the first; incomplete ones are deleted.

    Raises UserError when the run is longer than asked for already.
    """
    for folder in _folders(run):
        if not (folder / COMPLETE).is_file():
            notice(f"checkpoint {folder}: is incomplete, since the run was killed while it was written; it is deleted")
            if run.is_main:
                shutil.rmtree(folder)
    kept = kept_checkpoints(run)
    if kept and step_of_folder(kept[-1]) > last:
        raise UserError(f"output.folder {run.path}: the run is at step {step_of_folder(kept[-1])} already, beyond the "
                        f"{last} requested; nothing to resume")
    return kept[-1] if kept else None


def prune(run: RunFolder, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints (0: none of them)."""
    for folder in kept_checkpoints(run)[:-keep] if keep and run.is_main else ():
        shutil.rmtree(folder)


def write_beside(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """What learns beside the model, before the loop writes what makes the checkpoint complete."""
    if state:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in state.items()}, folder / BESIDE_WEIGHTS)


def read_beside(folder: Path, wanted: bool) -> dict[str, torch.Tensor]:
    """The same; {} where nothing is wanted. Raises UserError when the file is missing or damaged."""
    if not wanted:
        return {}
    try:
        return load_file(folder / BESIDE_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"checkpoint {folder / BESIDE_WEIGHTS}: cannot be read ({error}); delete the checkpoint "
                        "to continue from the one before") from None
