"""visalign: preference alignment for image and video generators."""

import importlib

__version__ = "0.7.0"

_PUBLIC = {
    "load_generator": "visalign.generators",
    "load_reward": "visalign.rewards",
    "load_config": "visalign.config.load",
    "train": "visalign.jobs.train",
    "Sample": "visalign.media.samples",
    "UserError": "visalign.errors",
}
REWARDS_ABOVE = {"density_ratio": "visalign.evaluation.density_ratio:GeneratorRatio"}
"""Kinds of rewards for which a room that `rewards` does not know has a class too: by its `takes` it says of settings
whether they are its own."""
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    """Import on first use: `visalign --help` must not wait for torch."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'visalign' has no attribute {name!r}")
