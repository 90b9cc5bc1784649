"""Running recipes as a user does, and reading what they leave."""

import json
import os

from click.testing import CliRunner
from safetensors.torch import load_file

from visalign.cli import main

UNMEASURED = {"reward": None, "also": [], "features": None, "max_prompts": 1, "samples_per_prompt": 1}
"""Settings of `eval` for a run whose held-out samples are not what a test is about."""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(*arguments):
    result = CliRunner().invoke(main, ["--debug", "train", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fails(*arguments) -> str:
    """The message of a run that must end in one sentence, without a traceback and with exit code 1."""
    result = CliRunner().invoke(main, ["train", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return next(line for line in result.output.splitlines() if line.startswith("visalign: "))


def weights(folder, epoch=None):
    folder = sorted((folder / "checkpoints").glob("step-*"))[-1] if epoch is None else \
        folder / "checkpoints" / f"step-{epoch:08d}"
    return load_file(folder / "trainable.safetensors")


def rows(folder, kind="train"):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]

# the text stream of SD3's last block ends there: its query has no effect on the prediction
WITHOUT_GRADIENT = {"transformer_blocks.1.attn.add_q_proj.lora_B.default.weight"}
