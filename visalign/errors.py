"""The one exception a person is meant to read, and how a near miss is named."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend; its message is one sentence naming what, where, and what is allowed."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """' (did you mean 'x'?)' for a near miss, else the list of what is allowed."""
    allowed = sorted(allowed)
    match = difflib.get_close_matches(word, allowed, n=1, cutoff=0.6)
    return f" (did you mean '{match[0]}'?)" if match else f" (allowed: {', '.join(allowed)})"
