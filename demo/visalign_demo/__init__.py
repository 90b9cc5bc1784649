"""The comparison app: look at models side by side, vote on them blind, and train on the votes."""

from visalign_demo.server import DemoSettings, serve

__all__ = ["DemoSettings", "serve"]
