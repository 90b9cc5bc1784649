"""The one door to TRL: its version is checked, and its telemetry is off, before anything of it is imported."""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from types import ModuleType

from visalign.errors import UserError

LEAST, BELOW = (1, 16), (2, 0)


def check_trl(setting: str = "lm") -> None:
    """Raise UserError naming what to install, where TRL is missing or another one than this package was written for."""
    needs = f"{setting}: needs TRL 1.16 or newer, below 2 (pip install 'visalign[language]', Python 3.11 or newer)"
    if sys.version_info < (3, 11):
        raise UserError(f"{needs}; this is Python {sys.version_info.major}.{sys.version_info.minor}")
    if importlib.util.find_spec("trl") is None:
        raise UserError(f"{needs}; it is not installed")
    found = importlib.metadata.version("trl")
    if not LEAST <= tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < BELOW:
        raise UserError(f"{needs}; installed is {found}")


def import_trl(module: str = "trl") -> ModuleType:
    """A module of TRL. Raises UserError as `check_trl` does."""
    check_trl()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    return importlib.import_module(module)
