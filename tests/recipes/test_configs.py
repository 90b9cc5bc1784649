"""Every recipe in configs/ validates, and runs end to end on a tiny network of a family that stands for all."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.families import TINY as PIPELINES
from visalign.cli import main
from visalign.config.load import load_config

from .model_of_recipe import source_of
from .pairs_of_recipe import write_what_is_asked

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
TINY = {"tiny-sd3": "sd3", "tiny-sdxl": "sdxl", "stabilityai/stable-diffusion-3.5-medium": "sd3",
        "stabilityai/stable-diffusion-xl-base-1.0": "sdxl", "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
        "stabilityai/stable-diffusion-2-1": "sd15-v",
        "Tongyi-MAI/Z-Image": "z_image", "Qwen/Qwen-Image": "qwen_image",
        "black-forest-labs/FLUX.2-klein-base-9B": "flux2_klein",
        "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": "sana"}
RUN = [file for file in CONFIGS if PIPELINES[TINY[source_of(file)]].stands_for_all]
"""The others' headers are dry-run in test_headers.py, and their families are trained in tests/trainers."""


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipe_validates(file):
    config = load_config(file)
    assert config.model.source in TINY


@pytest.mark.parametrize("file", RUN, ids=lambda file: file.stem)
def test_recipe_runs_on_a_tiny_network(file, pipelines, pairs_file, tmp_path):
    config = load_config(file)
    write_what_is_asked(pairs_file, config)
    (tmp_path / "prompts.txt").write_text("a red fruit\ncat face\n")
    overrides = [f"model={pipelines(TINY[config.model.source])}", "model.precision=fp32", "model.prompt_tokens=8",
                 f"data.cache={tmp_path / 'cache'}", "data.holdout=0", "train.steps=2", "train.batch_size=2",
                 "train.gradient_accumulation=1", "train.device=cpu", f"eval.prompts={tmp_path / 'prompts.txt'}",
                 "eval.steps=2", "output.trackers=[]", f"output.folder={tmp_path / 'run'}"]
    if config.model.resolution:
        overrides += ["model.resolution=16"]
    if config.guard.watch_pairs:
        overrides += ["data.holdout=0.5", "guard.max_prompts=1", "guard.samples_per_prompt=2", "guard.start_sets=1"]
    if config.data.users:
        overrides += ["data.users.holdout=0", "model.user_features=tiny-clip"]
    if config.data.feedback:
        overrides += ["data.feedback.max_prompts=3", "data.feedback.steps=2"]
    elif config.data.subject:
        overrides += ["data.subject.steps=2", "data.subject.reward=tiny-clip", "data.subject.photos=emoji:subject",
                      "data.subject.max_prompts=2", "eval.reward=tiny-clip", "eval.also=[]", "eval.every=1",
                      "eval.keep_best=tiny-clip"]
    elif config.data.sources:
        own = [one.model_dump(include={"share", "prior", "loss_weight"}, exclude_none=True) | {"path": str(pairs_file)}
               for one in config.data.sources]
        overrides += [f"data.sources={json.dumps(own)}"]
    else:
        overrides += [f"data.path={pairs_file}"]
    result = CliRunner().invoke(main, ["--debug", "train", str(file), *overrides], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "report.html").stat().st_size > 5000
    assert (tmp_path / "run" / "export" / "README.md").exists()
