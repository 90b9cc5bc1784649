"""Generators: diffusers pipelines that can be sampled, trained and exported. To add a family, see docs/extending.md."""

from visalign.generators.base import Conditioning, Generator
from visalign.generators.families.registry import FAMILIES
from visalign.generators.files.locating import ModelLocation, locate_model
from visalign.generators.loading import load_generator

__all__ = ["FAMILIES", "ModelLocation", "Conditioning", "Generator", "locate_model", "load_generator"]
