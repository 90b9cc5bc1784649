"""Every objective by the loop that uses it and the name that a recipe gives it."""

from collections.abc import Callable
from typing import TypeVar

REGISTRIES: dict[str, dict[str, type]] = {"offline": {}, "online": {}, "reward": {}, "language": {},
                                          "language_online": {}, "language_reward": {}}
"""By the loop that uses them; a configuration says which loop it is for."""

Method = TypeVar("Method", bound=type)


def register(loop: str, name: str) -> Callable[[Method], Method]:
    """Makes a class the objective that recipes of a loop know by `name`. Raises ValueError for a name that is taken."""
    def keep(method: Method) -> Method:
        known = REGISTRIES[loop].setdefault(name, method)
        if known is not method:
            raise ValueError(f"{loop} objective {name}: {known.__module__}.{known.__name__} has this name already")
        return method

    return keep
