"""Groups and commands: errors as one sentence, help in sections, old names answered with the new ones."""

import contextlib
import gc
import sys
from collections.abc import Iterator

import click

from visalign.cli.renamed import OPTIONS, VERBS
from visalign.errors import UserError, nearest
from visalign.trainers.stopping import heard

_RESUMED = "; the same command with --resume continues, or starts again where nothing was kept yet"
_GO_ON = dict.fromkeys(("train", "quickstart", "reward", "guide"), _RESUMED) | dict.fromkeys(
    ("score", "generate", "evaluate", "compare", "data", "votes"), "; the same command continues")
"""How to continue after a signal, by command, where the work itself has not said so."""


class Verb(click.Command):
    """A command. Renamed options, and settings typed like options, are answered with the intended form."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {word for param in self.get_params(ctx) for word in (*param.opts, *param.secondary_opts)}
        for i, word in enumerate(args):
            name, equals, value = word.partition("=")
            if word == "--":
                break
            if not word.startswith("--") or name in known:
                continue
            if name in OPTIONS:
                raise click.UsageError(f"{name} is no longer an option: write {OPTIONS[name]}", ctx)
            if "overrides" in {param.name for param in self.get_params(ctx)} and (equals or "." in name):
                value = value if equals else (args[i + 1] if i + 1 < len(args) else "VALUE")
                raise click.UsageError(f"settings are written without dashes: write {name[2:]}={value}", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context):
        with _all_kept() if ctx.params.get("dry_run") else contextlib.nullcontext():
            return super().invoke(ctx)


@contextlib.contextmanager
def _all_kept() -> Iterator[None]:
    """Within it nobody looks for garbage: a plan is made of millions of small objects, and ends before they matter."""
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked:
            gc.enable()


class Verbs(click.Group):
    """A group that answers unknown commands with the nearest one."""

    command_class = Verb

    def resolve_command(self, ctx: click.Context, args: list[str]):
        name = str(args[0])
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            if name in VERBS and ctx.parent is None:
                ctx.fail(f"`visalign {name}` is no longer a command: write `visalign {VERBS[name]}`")
            ctx.fail(f"no such command: {name}{nearest(name, self.commands)}")
        return super().resolve_command(ctx, args)


Verbs.group_class = Verbs


class Root(Verbs):
    """Turns what a user can fix into one sentence and exit code 1; `--debug` shows the traceback."""

    sections: dict[str, tuple[str, ...]] = {}

    def invoke(self, ctx: click.Context):
        try:
            with heard():
                return super().invoke(ctx)
        except UserError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"visalign: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt as stop:
            how = _GO_ON.get(ctx.invoked_subcommand, "")
            click.echo(f"visalign: {getattr(stop, 'message', '') or 'stopped' + how}", err=True)
            sys.exit(getattr(stop, "exit_code", 130))
        except BrokenPipeError:  # the reader has what it wants, as in `visalign list recipes | head`
            raise
        except OSError as error:
            if ctx.params.get("debug"):
                raise
            from visalign.storage.files import refusal

            click.echo(f"visalign: {refusal(error)}", err=True)
            sys.exit(1)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By section, each verb with the first sentence of its help."""
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(200)) for name in names])
