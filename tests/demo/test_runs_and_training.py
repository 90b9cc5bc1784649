"""Runs are found, shown while they train, and nothing else is; votes become a recipe, and a training if allowed."""

import json
import os
import time
from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner

from visalign.cli import main
from visalign.config import OfflineConfig
from visalign.config.load import load_config
from visalign.errors import UserError
from visalign.votes import Vote
from visalign_demo.context import Demo
from visalign_demo.runs_tab import find_runs, overview_html, run_named, sample_steps, samples_html
from visalign_demo.train_tab import TrainingProcess, plan_training


@pytest.fixture
def runs(recipe, tmp_path):
    done = CliRunner().invoke(main, ["train", str(recipe(train={"steps": 2}, eval={"every": 1}))],
                              catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return tmp_path


def test_a_run_shows_its_verdict_numbers_curves_and_samples(runs):
    run = run_named(runs, "run")
    page = overview_html(run)
    assert "data:image/svg" in page and 'href="/report/run"' in page and run.ended and not run.live
    assert len(sample_steps(run)) == 3
    first, last = (samples_html(run, place) for place in (0, 99))
    assert "step-00000000" in first and "step-00000002" in last and "data:image/webp" in first


def test_a_run_that_is_training_is_live_and_a_half_written_line_waits(runs):
    run = run_named(runs, "run")
    (run.path / "report.html").unlink()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert run.live and "training now" in overview_html(run)
    os.utime(run.path / "metrics.jsonl", (time.time() - 3600,) * 2)
    assert not run.live


def test_only_runs_below_the_folder_are_found(runs, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "other"
    (outside / "checkpoints").mkdir(parents=True)
    (outside / "config.yaml").write_text("{}")
    os.symlink(outside, runs / "linked")
    assert "run" in [run.name for run in find_runs(runs)] and "linked" not in [run.name for run in find_runs(runs)]
    for name in ("linked", "../outside/other", str(outside), None, ""):
        with pytest.raises(UserError, match="There is no run"):
            run_named(runs, name)


@pytest.fixture
def voted(settings, pipelines, tmp_path):
    """A demo on a tiny pipeline with three decided pairs, one tie and one that was skipped."""
    from PIL import Image

    from visalign.votes import Matchup, MatchupSide

    demo = Demo(replace(settings, models={"base": str(pipelines("sd3"))}, pairs=0, prompts=str(prompts(tmp_path))))
    for i, choice in enumerate(("a", "b", "a", "tie", "skip")):
        for side, colour in (("a", "red"), ("b", "blue")):
            Image.new("RGB", (16, 16), colour).save(demo.book.media / f"{i}{side}.png")
        demo.book.add(Matchup(f"p{i}", MatchupSide("base", 0, f"{i}a.png"), MatchupSide("base", 1, f"{i}b.png"), {},
                              f"c{i}"))
        demo.book.vote(Vote(f"c{i}", "ann", choice, "a"))
    return demo


def prompts(folder):
    (folder / "p.txt").write_text("a red square\na blue square\n")
    return folder / "p.txt"


def test_votes_become_a_recipe_that_is_valid_and_goes_to_a_free_folder(voted):
    plan = plan_training(voted)
    assert (plan.exported.decided, plan.exported.ties, plan.exported.skipped) == (3, 1, 1)
    config = load_config(plan.file, kind=OfflineConfig)
    assert config.objective["name"] == "flow_dpo" and config.data.path == str(plan.exported.comparisons.resolve())
    assert config.train.batch_size == 3 and config.eval.prompts.endswith("prompts.txt")
    (voted.settings.runs / "votes-1").mkdir(parents=True)
    assert yaml.safe_load(plan_training(voted).recipe)["output"]["folder"].endswith("votes-2")


def test_diffusion_models_get_a_diffusion_objective(voted, pipelines, settings):
    other = Demo(replace(voted.settings, models={"base": str(pipelines("sd15"))}))
    assert yaml.safe_load(plan_training(other).recipe)["objective"]["name"] == "diffusion_dpo"


def test_one_training_at_a_time_and_its_end_is_told(tmp_path):
    trainer = TrainingProcess(tmp_path / "training.log")
    assert trainer.status() == "" and not trainer.running
    trainer.start(tmp_path / "gone.yaml")
    with pytest.raises(UserError, match="in progress already"):
        trainer.start(tmp_path / "gone.yaml")
    for _ in range(600):
        if not trainer.running:
            break
        time.sleep(0.1)
    assert trainer.status().startswith("It stopped (exit 1)") and "there is no such file" in trainer.status()


@pytest.mark.parametrize("allowed", [False, True])
def test_the_page_starts_trainings_only_if_that_was_allowed(settings, allowed):
    from visalign_demo.server import blocks_of

    page = blocks_of(Demo(replace(settings, allow_train=allowed, pairs=0)))
    names = {function.api_name for function in page.fns.values()}
    assert ("train_start" in names) == allowed and "train_plan" in names
    assert allowed == ("Start training" in json.dumps(page.get_config_file(), default=str))


@pytest.mark.parametrize("file, content", [
    ("metrics.jsonl", '{"kind": "train", "step": 1}\n{"kind": "held_out", "step": 1, "values": 3}\n'),
    ("metrics.jsonl", "garbage\n{}\n"),
    ("metrics.jsonl", '{"kind": "held_out", "step": 0, "values": {"x": "y"}}\n' * 2),
    ("config.yaml", "- 1\n"), ("config.yaml", "model: {source: nowhere}\n"), ("config.yaml", "\x00")])
def test_a_run_whose_files_are_none_is_a_sentence(tmp_path, settings, file, content, caplog):
    from visalign_demo.server import blocks_of

    run = settings.runs / "odd \udcff <b>"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("model: {source: tiny-sd3}\nobjective: {name: sft}\n")
    (run / file).write_text(content)
    [found] = find_runs(settings.runs)
    assert found.name == "odd ? <b>"
    page = blocks_of(Demo(replace(settings, pairs=0)))
    [show] = [function.fn for function in page.fns.values() if function.api_name == "run"]
    said = show(found.name)[0]
    assert "va-problem" in said or "va-soft" in said
    assert "unexpected" not in said and "<b>" not in said and "Traceback" not in caplog.text
