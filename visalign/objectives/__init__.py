"""Losses as pure functions of tensors. Each registers itself where it is written; to add one, see docs/extending.md."""

import importlib
import pkgutil

from visalign.objectives.base import Objective, Outcome, PairErrors
from visalign.objectives.registry import REGISTRIES, register

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["REGISTRIES", "Objective", "Outcome", "PairErrors", "register"]
