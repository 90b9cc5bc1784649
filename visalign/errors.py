"""What a user is told: the one exception meant for them, suggestions for misspelt names, and notices."""

import difflib
import functools
import importlib.util
import os
import sys
from collections.abc import Iterable


class UserError(Exception):
    """An error the user can fix; its message is one sentence naming what, where, and what is allowed."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """' (did you mean 'x'?)' for a near miss, else the list of what is allowed."""
    allowed = sorted(allowed)
    match = difflib.get_close_matches(word, allowed, n=1, cutoff=0.6)
    return f" (did you mean '{match[0]}'?)" if match else f" (allowed: {', '.join(allowed)})"


def speaks() -> bool:
    """Whether this process prints what all have found: of several the first."""
    return os.environ.get("RANK", "0") == "0"


@functools.cache
def notice(text: str) -> None:
    """Print `text` to stderr, above any progress bar; of several processes only the first prints."""
    if speaks():
        from tqdm import tqdm

        tqdm.write(f"visalign: {text}", file=sys.stderr)


def check_package(setting: str, module: str, package: str) -> None:
    """Raise UserError when a setting's package, which pip installs as `package`, is not there."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{setting} needs the package {package}: pip install {package}")
