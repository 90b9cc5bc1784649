"""What every verb has in common: the same options by the same names, help in sections, answers to old words."""

import errno
import gc
import itertools

import click
import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.cli.options import SAMPLING_DEFAULTS
from visalign.cli.renamed import OPTIONS, VERBS


def verbs(group=main, path=()):
    """(words, command) of every verb."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))
        else:
            yield (*path, name), command


VERBS_HERE = list(verbs())
NAMES = [" ".join(words) for words, _ in VERBS_HERE]


def invoke(*words):
    return CliRunner().invoke(main, [*map(str, words)])


def test_the_help_names_every_command_in_one_section():
    shown = list(itertools.chain(*main.sections.values()))
    assert sorted(shown) == sorted(main.commands) and len(set(shown)) == len(shown)
    assert all(f"{title}:" in invoke("--help").output for title in main.sections)


@pytest.mark.parametrize("words, command", VERBS_HERE, ids=NAMES)
def test_options_have_their_names_everywhere(words, command):
    options = {flag: param for param in command.params for flag in param.opts}
    assert not OPTIONS.keys() & options.keys()
    if "-o" in options:
        assert "--out" in options["-o"].opts
    if "--device" in options:
        assert options["--device"].type.choices == ("auto", "cpu", "cuda")
    if "-r" in options:
        assert {"--rewards", "--reward"} & set(options["-r"].opts)


@pytest.mark.parametrize("words, command", VERBS_HERE, ids=NAMES)
def test_every_verb_says_what_it_does(words, command):
    done = invoke(*words, "--help")
    assert done.exit_code == 0 and command.help and len(command.get_short_help_str(200)) > 20


@pytest.mark.parametrize("old, new", VERBS.items())
def test_a_verb_of_old_is_answered_with_the_new_one(old, new):
    done = invoke(old, "anything")
    assert done.exit_code == 2 and f"`visalign {new}`" in done.output


@pytest.mark.parametrize("command, old, new", [
    ("generate a b", "--output", "--out"), ("generate a b", "--samples=2", "--samples-per-prompt"),
    ("evaluate a", "--seeds", "--samples-per-prompt"), ("data pairs", "--per-prompt", "--samples-per-prompt"),
    ("data pairs", "--from", "SOURCE as an argument"), ("demo", "--judges", "--rewards"),
    ("demo", "--rollout", "--drawn"), ("votes draw r", "--vote-by", "--reward"),
    ("data check p", "--image-root", "--media-root"), ("score s", "--list", "`visalign list rewards`"),
    ("generate a b", "--clip-format", "--video-format")])
def test_an_option_of_old_is_answered_with_the_new_one(command, old, new):
    done = invoke(*command.split(), old, "1")
    assert done.exit_code == 2 and f"{old.split('=')[0]} is no longer an option: write {new}" in done.output


def test_a_misspelt_verb_is_answered_with_the_nearest():
    assert "did you mean 'evaluate'" in invoke("evalute", "x").output
    assert "did you mean 'check'" in invoke("data", "chek", "x").output


def test_settings_typed_like_options_are_answered_with_the_form_that_is_meant():
    assert "write optim.lr=1e-5" in invoke("train", "sft", "--optim.lr=1e-5").output


def test_steps_and_guidance_in_the_help_are_those_of_the_families():
    from visalign.generators.families.registry import FAMILIES

    names = {"StableDiffusion3Pipeline": "SD3", "FluxPipeline": "FLUX", "StableDiffusionXLPipeline": "SDXL",
             "StableDiffusionPipeline": "SD1.5", "WanPipeline": "Wan", "LTXPipeline": "LTX"}
    for pipeline, name in names.items():
        family = FAMILIES[pipeline]
        assert f"{name} {family.default_steps} and {family.default_guidance_scale:g}" in SAMPLING_DEFAULTS
    assert all(family.default_steps and family.default_guidance_scale for family in FAMILIES.values())


@pytest.mark.parametrize("what, name", [("rewards", "pickscore"), ("objectives", "flow_dpo"), ("objectives", "srpo"),
                                        ("recipes", "sdxl_dpo"),
                                        ("generators", "StableDiffusionXLPipeline")])
def test_list_names_what_there_is(what, name):
    done = invoke("list", what)
    assert done.exit_code == 0
    assert any(line.startswith(f"{name} ") and len(line) > 40 for line in done.output.splitlines())


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell):
    done = invoke("completion", shell)
    assert done.exit_code == 0 and "_VISALIGN_COMPLETE" in done.output


def test_the_shell_completes_recipes():
    from visalign.cli.options import RecipeName

    found = RecipeName().shell_complete(None, None, "sdxl_d")
    assert [item.value for item in found] == ["sdxl_dpo", "sdxl_dpo_buckets"]
    assert RecipeName().shell_complete(None, None, "./mine")[0].type == "file"


def test_a_reader_that_has_enough_is_no_fault(monkeypatch):
    def gone():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(main.commands["doctor"], "callback", gone)
    assert CliRunner().invoke(main, ["doctor"]).output == ""


def test_garbage_is_not_looked_for_while_planning_and_is_again_afterwards(monkeypatch):
    looked = []
    monkeypatch.setattr("visalign.cli.training.read_recipe", lambda *given: looked.append(gc.isenabled()) or exit(0))
    before = gc.isenabled()
    for options in ((), ("--dry-run",)):
        invoke("train", "sdxl_dpo", *options)
    assert looked == [before, False] and gc.isenabled() == before
