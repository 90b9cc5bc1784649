"""Every recipe of language models validates, and runs from start to finish on a tiny model of a real class."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.config import LanguageSettings
from visalign.config.load import load_config

pytest.importorskip("trl")

from tests.language.test_vision import colours, tiny_vlm  # noqa: E402, F401  fixtures

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "language"
RECIPES = sorted(file for file in FOLDER.glob("*.yaml") if file.stem != "reward" and not file.stem.startswith("adapt"))
SMALL = ("train.steps=2", "train.batch_size=2", "train.gradient_accumulation=1", "eval.max_prompts=2",
         "eval.samples_per_prompt=2", "eval.max_tokens=6", "eval.features=null", "eval.also=[repetition]",
         "guard.action=off", "output.trackers=[]", "model.precision=fp32", "optim.warmup_steps=0")


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe_is_one_of_a_language_model(file):
    assert isinstance(load_config(file), LanguageSettings)


@pytest.fixture(scope="module")
def tiny(of_all_workers):
    from tests.tiny.languages import save_tiny_language_model

    folder = of_all_workers / "tiny-lm"
    return folder if (folder / "model.safetensors").exists() else save_tiny_language_model(folder)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe_runs_on_a_tiny_model(file, tiny, tiny_vlm, colours, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    config = load_config(file)
    given = [*SMALL, f"model={tiny_vlm if config.model.vision else tiny}", f"output.folder={tmp_path / 'run'}"]
    if hasattr(config, "rollout"):
        given = [each for each in given if "batch_size" not in each]
        given += ["rollout.max_prompts=4", "rollout.prompts_per_step=2", "rollout.group_size=3", "rollout.max_tokens=6",
                  "train.batch_size=6"]
    elif config.data.feedback:
        given += ["data.feedback.max_prompts=4", "data.feedback.max_tokens=6", "data.feedback.reward=brevity",
                  "data.feedback.second_reward=null", "data.feedback.uncertainty=null"]
        given += ["data.feedback.success.least=0"] if config.data.feedback.success else []
    elif config.data.persuasion:
        given += ["data.persuasion.max_questions=8", "data.persuasion.replies=1", "data.persuasion.max_tokens=6"]
    else:
        given += [f"data.path={colours / ('opa' if config.data.opa else 'pairs')}.jsonl", "data.holdout=0.25",
                  "model.gradient_checkpointing=false"]
    result = CliRunner().invoke(main, ["--debug", "train", str(file), *given], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "verdict.json").read_text())["word"]
    assert (tmp_path / "run" / "export" / "README.md").is_file()
