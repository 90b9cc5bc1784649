"""Every online recipe validates, and runs end to end on a tiny network of a family that stands for all."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.families import TINY as PIPELINES
from visalign.cli import main
from visalign.config.load import build_objective, load_config
from visalign.trainers.cost import sample_passes
from visalign.trainers.online.epoch_shape import check_arithmetic

from .guide_of_recipe import guide_source
from .model_of_recipe import source_of
from .test_configs import TINY

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "online").glob("*.yaml"))
TINY = TINY | {"black-forest-labs/FLUX.1-dev": "flux"}
RUN = [file for file in CONFIGS if PIPELINES[TINY[source_of(file)]].stands_for_all]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipe_validates_and_its_numbers_divide(file):
    config = load_config(file)
    assert config.model.source in TINY
    check_arithmetic(config, 1)


@pytest.mark.parametrize("file", RUN, ids=lambda file: file.stem)
def test_recipe_runs_on_a_tiny_network(file, pipelines, tmp_path):
    config = load_config(file)
    (tmp_path / "prompts.txt").write_text("a red fruit\na cat face\na blue heart\n")
    group, combined = config.rollout.group_size, len(config.reward.models) > 1
    small = group if group < 3 else 5 if group % 2 else 4
    overrides = [
        f"model={pipelines(TINY[config.model.source])}", "model.precision=fp32", "model.prompt_tokens=8",
        "model.resolution=16", f"rollout.cache={tmp_path / 'cache'}", f"rollout.prompts={tmp_path / 'prompts.txt'}",
        "rollout.prompts_per_epoch=2", f"rollout.group_size={small}", f"rollout.batch_size={small}",
        "train.epochs=1", "train.updates_per_epoch=1", "train.batch_size=4", "train.device=cpu",
        f"eval.prompts={tmp_path / 'prompts.txt'}", "eval.every=0", "eval.max_prompts=1", "eval.samples_per_prompt=2",
        "rollout.engine=local", "rollout.staleness=0", "eval.steps=2", "eval.reward=contrast", "eval.also=[saturation]",
        f"eval.features={'null' if config.guard.action == 'off' else 'tiny-clip'}", "guard.max_prompts=1",
        "guard.samples_per_prompt=2", "output.trackers=[]", f"output.folder={tmp_path / 'run'}"]
    kind = TINY[config.model.source]
    overrides += guide_source(config, tmp_path, pipelines(kind), kind)
    overrides += ["rollout.branches.steps=[0, 1]"] if config.rollout.branches else []
    overrides += ["objective.keep=1"] if "keep" in config.objective else []
    overrides += ["reward.features=tiny-clip"] if config.reward.features else []
    if config.rollout.window is None:
        overrides.append("rollout.steps=6")
    if config.rollout.votes:
        drawn = CliRunner().invoke(main, [
            "--debug", "votes", "draw", str(file), *[o for o in overrides if not o.startswith(("output", "eval"))],
            "--out", str(tmp_path / "votes"), "--pairs", "3", "--reward", "contrast"], catch_exceptions=False)
        assert drawn.exit_code == 0, drawn.output
        overrides += [f"rollout.votes={tmp_path / 'votes' / 'votes.csv'}"]
    else:
        overrides += ["reward.models=[contrast, colourfulness]" if combined else "reward.models=[contrast]"]
    if "thresholds" in config.advantage:
        overrides.append("advantage.thresholds={contrast: 0.2}")
    if "schedule" in config.advantage:
        overrides.append("advantage.schedule={layout: [contrast], texture: [colourfulness], split: 0.8}")
    result = CliRunner().invoke(main, ["--debug", "train", str(file), *overrides], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "report.html").stat().st_size > 5000
    assert (tmp_path / "run" / "export" / "README.md").exists()


def test_dry_run_says_what_an_epoch_costs():
    result = CliRunner().invoke(main, ["train", str(CONFIGS[0].parent / "nft.yaml"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "8 prompts x 12 = 96 samples" in result.output and "4 to draw it, 2 with gradient and 2" in result.output


def test_dry_run_says_what_a_probe_costs():
    result = CliRunner().invoke(main, ["train", str(CONFIGS[0].parent / "marble.yaml"), "--dry-run"])
    # 6 updates: 5 of one pass, and one of 3 rewards and what is held apart
    assert result.exit_code == 0, result.output
    assert "passes of an update   1.5 over its samples in the mean: one in 6" in result.output


def test_guidance_apart_costs_half_of_the_passes_with_gradient():
    config = load_config(CONFIGS[0].parent / "sd35_flow_grpo.yaml", ("rollout.prompts=emoji:train",))
    objective = build_objective(config.objective, loop="online")
    apart = config.model_copy(update={"rollout": config.rollout.model_copy(update={"guidance_apart": True})})
    assert sample_passes(config, objective) == (20, 18, 18)  # 10 steps, 9 of them learnt from, the reference for the KL
    assert sample_passes(apart, objective) == (20, 9, 27)


def test_guidance_of_its_own_in_training_costs_its_own_passes():
    def passes(name):
        config = load_config(CONFIGS[0].parent / f"{name}.yaml", ("rollout.prompts=emoji:train",))
        return sample_passes(config, build_objective(config.objective, loop="online"))

    assert passes("sd35_dgpo") == (20, 4, 8)  # drawn with guidance; the policy, the old one and the reference without
    assert passes("sd35_crd") == (10, 9, 27)  # drawn without; 9 times the old policy, and the reference in two branches
