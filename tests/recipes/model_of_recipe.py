"""What tests are made for, from a recipe that is not yet validated: that takes long for all of them."""

from pathlib import Path

import yaml


def source_of(file: Path) -> str:
    """The model that a recipe names."""
    return yaml.safe_load(file.read_text())["model"]["source"]
