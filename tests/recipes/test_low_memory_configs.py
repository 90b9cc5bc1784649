"""Recipes for small cards are valid and describe themselves on a tiny network of their family."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.families import TINY
from visalign.cli import main
from visalign.config.load import load_config
from visalign.generators.hardware import quantization
from visalign.trainers import optim

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "low_memory").glob("*.yaml"))
MODELS = {"black-forest-labs/FLUX.1-dev": "flux", "stabilityai/stable-diffusion-xl-base-1.0": "sdxl"}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_recipe_needs_what_its_header_gives_and_nothing_else(file, pipelines, pairs_file, monkeypatch):
    config = load_config(file)
    assert f"#   visalign train low_memory/{file.stem} data.path=pairs.jsonl\n" in file.read_text()
    monkeypatch.setattr(quantization, "check_package", lambda *_: None)  # what is said without them is tested elsewhere
    monkeypatch.setattr(optim, "check_package", lambda *_: None)
    monkeypatch.setitem(optim.OPTIMIZERS, "adamw8bit", optim.OPTIMIZERS["adamw"])
    kind = MODELS[config.model.source]
    shape = TINY[kind].settings or {"resolution": 16}
    done = CliRunner().invoke(main, ["train", str(file), "--dry-run", f"model={pipelines(kind)}",
                                     "model.prompt_tokens=8", "train.device=cpu", f"data.path={pairs_file}",
                                     *(f"model.{key}={json.dumps(value)}" for key, value in shape.items())])
    assert done.exit_code == 0, done.output
