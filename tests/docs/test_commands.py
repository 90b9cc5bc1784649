"""Every command that the documentation shows is one that visalign, its scripts or its tools take today.

Commands of visalign are parsed by click, and what they name is validated: recipes with their overrides down to the data
they would read, rewards, prompts, models. Scripts are run up to where they have read their arguments.
"""

import argparse
import re
import runpy
import sys
from pathlib import Path

import click
import pytest

from tests.docs.shell_blocks import PAGES, ROOT, commands_of
from tests.docs.stand_ins import STAND_INS, lay_out
from visalign.cli import main
from visalign.config import GuideConfig, OnlineConfig, RewardConfig
from visalign.config.load import load_config, model_of
from visalign.config.recipes import find_recipe
from visalign.data.prompts import read_prompts
from visalign.data.suites import read_suite
from visalign.generators.files.embedded import EMBEDDED_MODELS
from visalign.jobs.evaluate import read_names
from visalign.jobs.train import check_training
from visalign.rewards.registry import build_reward

COMMANDS = [command for page in PAGES for command in commands_of(page)]
KINDS = {"visalign reward train": RewardConfig, "visalign guide train": GuideConfig,
         "visalign votes draw": OnlineConfig}
TORCHRUN = re.compile(r"(torchrun --nproc_per_node \d+|accelerate launch --config_file configs/accelerate/\w+\.yaml"
                      r"( --num_processes \d+)?) -m visalign")
PYTEST = re.compile(r"pytest( -n auto --dist worksteal| -m slow| -q| -x| tests/[\w/.]+)*")
PIP = re.compile(r"pip install( -c constraints\.txt)?( -e)? ('?)(\.|visalign)(?:\[(?P<extra>\w+)\])?\3")
TOOLS = re.compile(r"mkdocs (serve|build --strict)|ruff check \.")


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with everything that the commands name; nothing is written to it."""
    folder = tmp_path_factory.mktemp("desk")
    lay_out(folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_is_taken(command, desk, pipelines, monkeypatch):
    monkeypatch.chdir(desk)
    line = " ".join(command.words)
    launched = TORCHRUN.match(line)
    if launched or command.words[0] == "visalign":
        words = line[launched.end():].split(" ")[1:] if launched else command.words[1:]
        check_visalign([stand_in(word) for word in words], pipelines)
    elif command.words[0] == "python":
        check_script(ROOT / command.words[1], list(command.words[2:]), monkeypatch)
    elif command.words[0] == "pytest":
        assert PYTEST.fullmatch(line), f"{command}: unknown options of pytest"
        assert all((ROOT / word).exists() for word in command.words if word.startswith("tests/"))
    elif command.words[0] == "pip":
        check_pip(line)
    elif command.words[0] == "make":
        assert re.search(rf"^{command.words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert TOOLS.fullmatch(line), f"{command}: nobody knows how to check this"


def stand_in(word: str) -> str:
    for named, model in STAND_INS.items():
        if named.startswith("/"):
            word = word.replace(named, model)
    return word


def check_visalign(words: list[str], pipelines) -> None:
    """Parse the words as the command line would, and validate what they name. Raises UserError or a click error."""
    command, context = main, main.make_context("visalign", list(words), resilient_parsing=True)
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, list(words))
        assert command, f"visalign has no command {name}"
        context = command.make_context(name, list(words), parent=context,
                                       resilient_parsing=isinstance(command, click.Group))
    given = context.params
    if "config" in given:
        check_recipe(load_config(find_recipe(given["config"]), given["overrides"], KINDS.get(context.command_path)),
                     pipelines)
    for reward in [*(given.get("rewards") or ()), *filter(None, (given.get("reward"), given.get("reward_spec")))]:
        build_reward(reward)
    if given.get("models"):
        read_names(given["models"], context.info_name)
    if given.get("model"):
        model_of(given["model"], tuple(given.get("settings") or ()))
    asked = given.get("prompts") or ()
    for prompts in [asked] if isinstance(asked, str) else [each[1:] for each in asked if each.startswith("@")]:
        read_prompts(prompts)
    if given.get("suite"):
        read_suite(given["suite"])


def check_recipe(config, pipelines) -> None:
    """All that can be known of a run before a model is loaded, a small model standing for the recipe's."""
    small = STAND_INS.get(config.model.source, config.model.source)
    if config.loop == "reward" or small not in {*EMBEDDED_MODELS, "sd15"}:
        return
    source = str(pipelines(small)) if small == "sd15" else small
    shape = {"resolution": None, "frames": None, "prompt_tokens": None}
    changes = {"model": config.model.model_copy(update={"source": source} | shape)}
    if config.loop == "offline" and config.data.path in STAND_INS:
        changes["data"] = config.data.model_copy(update={"path": STAND_INS[config.data.path]})
    check_training(config.model_copy(update=changes))


class Read(Exception):
    """A script has read its arguments."""


def check_script(script: Path, arguments: list[str], monkeypatch) -> None:
    """Run a script until it has read its arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *given, **options):
        parse(parser, *given, **options)
        raise Read

    before = set(sys.modules)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.syspath_prepend(script.parent)
    with pytest.raises(Read):
        runpy.run_path(str(script), run_name="__main__")
    for name in set(sys.modules) - before:
        if str(ROOT / "scripts") in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def check_pip(line: str) -> None:
    if line.startswith("pip install -c constraints.txt --no-deps "):
        pinned = (ROOT / "constraints.txt").read_text()
        assert all(f"\n{name}==" in pinned for name in line.split()[5:]), line
        return
    found = PIP.fullmatch(line)
    assert found, f"{line}: unknown options of pip"
    assert not found["extra"] or f"\n{found['extra']} = [" in (ROOT / "pyproject.toml").read_text()
