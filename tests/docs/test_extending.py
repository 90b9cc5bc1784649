"""The examples of docs/extending.md, taken from the page: they are added, tested, and train one tiny model together."""

import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

import visalign.objectives
import visalign.rewards
from tests import families
from tests.generators import test_every_family as every_family
from tests.tiny import builders
from visalign.cli import main
from visalign.generators import FAMILIES
from visalign.generators.families.registry import made
from visalign.objectives import REGISTRIES
from visalign.rewards import REWARDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', TEXT, re.DOTALL | re.MULTILINE))
OBJECTIVE = ("visalign/objectives/margin.py", "configs/margin.yaml", "tests/objectives/test_margin.py")
REWARD = ("visalign/rewards/brightness.py", "tests/rewards/test_brightness.py")
FAMILY = ("visalign/generators/families/hints.py, one entry of HINTS", "tests/tiny/others_more.py, one builder",
          "tests/families.py, one entry of TINY")
NAME = "OvisImagePipeline"


def lines(*titles: str) -> int:
    return sum(len(BLOCKS[title].splitlines()) for title in titles)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The page's files below tmp_path, their modules importable where the page puts them, and their one line added."""
    for title, text in BLOCKS.items():
        if not re.search(r", one |, at ", title):
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(text)
    for package in (visalign.objectives, visalign.rewards):
        folder = tmp_path.joinpath(*package.__name__.split("."))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.setitem(REGISTRIES, "offline", dict(REGISTRIES["offline"]))

    imported = []

    def module(title: str) -> ModuleType:
        imported.append(title.removesuffix(".py").replace("/", "."))
        return importlib.import_module(imported[-1])

    def entry(title: str, **names) -> dict:
        return eval("{" + BLOCKS[title] + "}", names)  # {name: value}

    module(OBJECTIVE[0])
    for name, reward in entry("visalign/rewards/registry.py, one line of REWARDS", **vars(module(REWARD[0]))).items():
        monkeypatch.setitem(REWARDS, name, reward)
    for name, hints in entry(FAMILY[0]).items():
        monkeypatch.setitem(FAMILIES, name, made(name, hints))
    for name, tiny in entry(FAMILY[2], Tiny=families.Tiny, builders=builders).items():
        monkeypatch.setitem(families.TINY, name, tiny)
    yield tmp_path
    for name in imported:
        del sys.modules[name]


def run_tests_of(file: Path) -> int:
    """Call every test of a file; how many there were."""
    namespace: dict = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    for test in tests:
        test()
    return len(tests)


def test_an_objective_is_forty_five_lines_in_three_files():
    assert lines(*OBJECTIVE) <= 45
    said = [int(figure) for figure in re.findall(r"^\| (?:objective|reward|gen.*?) \|.*?\| (\d+)", TEXT, re.MULTILINE)]
    found = [lines(*OBJECTIVE), lines(*REWARD) + 2, lines(*FAMILY)]
    assert said == found


def test_the_examples_own_tests_hold(added):
    assert run_tests_of(added / OBJECTIVE[2]) + run_tests_of(added / REWARD[1]) == 2


def test_the_builder_is_that_of_the_tests():
    assert inspect.getsource(builders()["ovis"]) == BLOCKS[FAMILY[1]]


def test_the_family_does_what_every_family_must(added, tmp_path):
    [name] = {name for name, tiny in families.TINY.items() if tiny.family == NAME}
    assert name in families.family_names("image")
    folder = families.TINY[name].build(tmp_path / "pipeline")
    every_family.test_has_a_tiny_pipeline(NAME)
    every_family.test_says_all_of_itself(NAME)
    for check in (every_family.test_is_told_by_the_index_before_anything_is_loaded,
                  every_family.test_predictions_have_the_shape_of_latents_and_depend_on_prompt_and_time,
                  every_family.test_sampling_is_the_pipeline_s_own):
        check(lambda asked: folder, name)


def test_all_three_train_together(added, tmp_path, pairs_file):
    folder = families.TINY["ovis"].build(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("a red fruit\na cat face\n")
    result = CliRunner().invoke(main, [
        "--debug", "train", str(added / OBJECTIVE[1]), f"model={folder}", "model.precision=fp32",
        "model.tuning=full", "model.prompt_tokens=32", "model.resolution=16", f"data.path={pairs_file}",
        f"data.cache={tmp_path / 'cache'}", "data.holdout=0",
        "train.steps=3", "train.batch_size=2", "train.device=cpu", f"eval.prompts={tmp_path / 'prompts.txt'}",
        "eval.max_prompts=2", "eval.steps=2", "eval.reward=brightness", "eval.also=[]", "eval.features=tiny-clip",
        "output.trackers=[]", f"output.folder={tmp_path / 'run'}"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    assert len(trained) == 3 and all(0 <= row["violated"] <= 1 and row["grad_norm"] > 0 for row in trained)
    assert (tmp_path / "run" / "export" / "pipeline" / "model_index.json").is_file()
    assert "brightness" in result.output


def test_the_package_does_not_keep_the_examples():
    assert "margin" not in REGISTRIES["offline"] and "brightness" not in REWARDS and NAME not in FAMILIES
