"""Generators: diffusers pipelines that can be sampled, taught and exported. To add a family, see EXTENDING.md."""

from visalign.generators.base import Conditioning, Generator
from visalign.generators.loading import FAMILIES, Checkpoint, inspect_checkpoint, load_generator

__all__ = ["FAMILIES", "Checkpoint", "Conditioning", "Generator", "inspect_checkpoint", "load_generator"]
