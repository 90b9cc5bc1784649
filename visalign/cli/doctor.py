"""What is installed: `visalign doctor`, `visalign list` and `visalign completion`."""

import sys

import click

from visalign.cli.options import set_option
from visalign.cli.verbs import Verb, Verbs


@click.command(cls=Verb)
@click.argument("model", required=False)
@set_option
def doctor(model: str | None, settings: tuple[str, ...]) -> None:
    """Versions, devices, attention kernels; what is missing and the command that fixes it.

    With MODEL: what this hub id, folder or file is and where its parts come from; no weights are read.
    """
    from visalign.jobs.doctor import diagnose

    if model:
        from visalign.config.load import model_of
        from visalign.jobs.describe_model import describe_model

        click.echo("\n".join(describe_model(model_of(model, settings))))
        return

    lines, healthy = diagnose()
    click.echo("\n".join(lines))
    if not healthy:
        sys.exit(1)


@click.group("list", cls=Verbs)
def list_group() -> None:
    """List the rewards, objectives, generators or recipes."""


@list_group.command("rewards")
def list_rewards() -> None:
    """Every reward, what it scores, and one line about it."""
    from visalign.rewards.registry import describe_rewards

    _print_rows(describe_rewards())


@list_group.command("objectives")
def list_objectives() -> None:
    """Every training objective by loop, the models it is for, and one line about it."""
    from visalign.objectives import REGISTRIES

    _print_rows((name, _learnt_by(loop, method), first_sentence(method))
                for loop, methods in REGISTRIES.items() for name, method in methods.items())


def _learnt_by(loop: str, method: type) -> str:
    """'language models, online' or 'offline, flow models'."""
    if loop.startswith("language"):
        return loop.replace("language", "language models").replace("_", ", ")
    return f"{loop}, {getattr(method, 'process', 'any')} models"


@list_group.command("generators")
def list_generators() -> None:
    """Every model family by its diffusers pipeline, with its sampling defaults; and the embedded models."""
    from visalign.generators import FAMILIES
    from visalign.generators.files.embedded import EMBEDDED_MODELS

    _print_rows((name, f"{family.modality}, {family.process_kind}",
                 f"{family.default_steps} steps, guidance {family.default_guidance_scale:g}")
                for name, family in FAMILIES.items())
    _print_rows((name, "embedded", "knows emoji drawings only") for name in EMBEDDED_MODELS)


@list_group.command("recipes")
def list_recipes() -> None:
    """Every recipe that `train`, `reward train` and `guide train` find by name."""
    from visalign.config.recipes import recipe_summary, recipes

    _print_rows((name, "", recipe_summary(file)) for name, file in recipes().items())


def first_sentence(thing) -> str:
    """The first sentence of its docstring, on one line."""
    return " ".join((thing.__doc__ or "").split("\n\n")[0].split())


def _print_rows(rows) -> None:
    for name, what, line in rows:
        click.echo(f"{name:32} {what + ' ' * max(1, 24 - len(what)) if what else ''}{line}")


@click.command(cls=Verb)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and recipes in SHELL.

    \b
    bash:  visalign completion bash >> ~/.bashrc
    zsh:   visalign completion zsh >> ~/.zshrc
    fish:  visalign completion fish > ~/.config/fish/completions/visalign.fish
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    click.echo(get_completion_class(shell)(root, {}, "visalign", "_VISALIGN_COMPLETE").source())
