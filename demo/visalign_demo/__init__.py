"""The comparison app: look at models side by side, judge them blind, and train on the votes."""

from visalign_demo.server import Settings, serve

__all__ = ["Settings", "serve"]
