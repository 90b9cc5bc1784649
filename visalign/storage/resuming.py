"""Which settings a resumed run may change, and where else a run that was not found may be."""

import difflib
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from visalign.errors import UserError
from visalign.storage.old_names import read_run_settings

MAY_CHANGE = frozenset({
    "train.steps", "train.epochs", "train.device", "train.workers", "train.patience", "train.wait_minutes",
    "train.batch_size", "train.gradient_accumulation", "rollout.batch_size", "data.cache", "rollout.cache",
    "rollout.engine", "rollout.ray",
    "model.gradient_checkpointing", "model.vae_slicing", "model.memory", "eval.every", "eval.batch_size",
    "reward.timeout", "reward.retries", "reward.retry_wait", "reward.max_failures", "reward.offload",
    "guard.action", "guard.every", "guard.cost", "guard.budget", "guard.drift", "guard.tolerance",
})
"""Settings that change how long a run is and what is kept of it, but nothing that was done so far; all of `output` too.
Any other difference would make it another run."""


def check_settings(folder: Path, config: BaseModel) -> None:
    """Raise UserError naming every setting that differs from the run in `folder` and may not change."""
    earlier = _earlier(folder, type(config))
    now, then = config.model_dump(mode="json"), earlier.model_dump(mode="json")
    changed = [f"{section}.{key}" for section in now if section != "output"
               for key in _keys(now[section], then[section])
               if _value(now[section], key) != _value(then[section], key) and f"{section}.{key}" not in MAY_CHANGE]
    if "guard" in now and _turned_on(then["guard"]["action"], now["guard"]["action"]):
        changed.append("guard.action")
    if changed:
        differ = "; ".join(f"{name} was {_short(then, name)} and is {_short(now, name)}" for name in changed)
        free = sorted(name for name in MAY_CHANGE if name.split(".")[1] in now.get(name.split(".")[0], ()))
        raise UserError(f"output.folder {folder}: cannot resume, {differ}; use the run's own settings or a new folder "
                        f"(a resume may change output and {', '.join(free)})")


def _earlier(folder: Path, kind: type[BaseModel]) -> BaseModel:
    """The settings kept in a run's folder; settings that an older version did not have take their defaults."""
    try:
        return kind.model_validate(read_run_settings(folder))
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"output.folder {folder}: cannot resume, its config.yaml is of another kind of run ({key}: "
                        f"{error.errors()[0]['msg']}); use a new folder") from None


def _keys(now, then) -> list[str]:
    return sorted({*now, *then}) if isinstance(now, dict) and isinstance(then, dict) else [""]


def _value(section, key: str):
    return section.get(key) if key else section


def _short(settings: dict, name: str) -> str:
    section, _, key = name.partition(".")
    text = str(_value(settings[section], key))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _turned_on(then: str, now: str) -> bool:
    """Whether the guard would need what was not kept: a measurement at the start, or the best weights so far."""
    return then != now and (then == "off" or now == "rollback")


def nothing_there(folder: Path) -> UserError:
    """The error for a `folder` that holds no run to resume."""
    root = next(parent for parent in folder.absolute().parents if parent.is_dir())
    runs = {os.path.relpath(each.parent) if not folder.is_absolute() else str(each.parent)
            for pattern in ("*/config.yaml", "*/*/config.yaml") for each in root.glob(pattern)
            if os.path.isdir(each.parent / "checkpoints")}
    near = difflib.get_close_matches(str(folder), runs, n=5, cutoff=0.0)
    places = f"; runs near it: {', '.join(near)}" if near else f", nor near it in {root}"
    return UserError(f"output.folder {folder}: nothing to resume, there is no run in it{places} (leave --resume out to "
                     "start a new run)")
