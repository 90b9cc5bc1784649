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
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    """Import on first use: `visalign --help` must not wait for torch."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'visalign' has no attribute {name!r}")
