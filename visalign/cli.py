"""The command line: one verb per job. Heavy imports wait until a verb runs."""

import sys
from pathlib import Path

import click

from visalign.errors import UserError


class Group(click.Group):
    """Turns what a user can mend into one sentence and exit code 1; `--debug` shows the traceback."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except UserError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"visalign: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("visalign: stopped; continue the run with --resume", err=True)
            sys.exit(130)
        except OSError as error:
            if ctx.params.get("debug"):
                raise
            named = f" {error.filename}" if error.filename else ""
            click.echo(f"visalign: the system refused{named}: {error.strerror or error}", err=True)
            sys.exit(1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks and library warnings.")
@click.version_option(package_name="visalign")
def main(debug: bool) -> None:
    """Preference alignment for image generators: fine-tune, judge, see what it cost."""
    if not debug:
        quiet_libraries()


def quiet_libraries() -> None:
    """Silence notices that a user cannot act on."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.getLogger("root").setLevel(logging.ERROR)


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print settings, sizes and a memory estimate; load nothing.")
@click.option("--resume", is_flag=True, help="Continue the run in output.folder from its last checkpoint.")
def train(config: Path, overrides: tuple[str, ...], dry_run: bool, resume: bool) -> None:
    """Fine-tune as CONFIG says; KEY=VALUE pairs override it (optim.lr=1e-5 model=tiny-sdxl)."""
    from visalign.configfile import load_config

    settings = load_config(config, overrides)
    if dry_run:
        from visalign.trainers.plan import describe

        click.echo(describe(settings))
        return
    from visalign.trainers.recipe import train as run_recipe

    _print_result(run_recipe(settings, resume=resume))


QUICKSTARTS = {"tiny-sd3": "quickstart.yaml", "tiny-sdxl": "quickstart_sdxl.yaml"}


@main.command()
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Continue an interrupted quickstart.")
def quickstart(overrides: tuple[str, ...], resume: bool) -> None:
    """Align an embedded model in minutes on a CPU: model=tiny-sd3 (Flow-DPO) or model=tiny-sdxl (Diffusion-DPO)."""
    from visalign.configfile import load_config, recipe_path
    from visalign.errors import nearest
    from visalign.trainers.recipe import train as run_recipe

    models = [o.removeprefix("model=") for o in overrides if o.startswith("model=")]
    model = models[-1] if models else "tiny-sd3"
    if model not in QUICKSTARTS:
        raise UserError(f"quickstart model={model}: no quickstart for it{nearest(model, QUICKSTARTS)}; use "
                        "`visalign train` with a recipe of your own for other checkpoints")
    rest = tuple(o for o in overrides if not o.startswith("model="))
    _print_result(run_recipe(load_config(recipe_path(QUICKSTARTS[model]), rest), resume=resume))


def _print_result(result) -> None:
    from visalign.trainers.recipe import figures

    for name, text in figures(result).items():
        click.echo(f"{name:36} {text}")
    click.echo(f"{'time':36} {result.seconds:.0f} s")
    click.echo(f"{'report':36} {result.folder / 'report.html'}")


@main.command()
@click.argument("model")
@click.argument("prompts", nargs=-1, required=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("generated"), show_default=True)
@click.option("--lora", type=click.Path(exists=True, path_type=Path), help="A LoRA folder or file to load first.")
@click.option("--samples", default=4, show_default=True, type=click.IntRange(1), help="Pictures of each prompt.")
@click.option("--steps", default=28, show_default=True, type=click.IntRange(1))
@click.option("--guidance-scale", default=4.5, show_default=True, type=click.FloatRange(0))
@click.option("--seed", default=0, show_default=True)
@click.option("--precision", default="auto", type=click.Choice(["auto", "fp32", "bf16", "fp16"]))
def generate(model: str, prompts: tuple[str, ...], output: Path, lora: Path | None, samples: int, steps: int,
             guidance_scale: float, seed: int, precision: str) -> None:
    """Sample MODEL on PROMPTS (texts, or one @file with a prompt a line) into PNGs, a grid and samples.jsonl."""
    from visalign.trainers.generate import generate_to_folder

    written = generate_to_folder(model, list(prompts), output, lora=lora, samples=samples, steps=steps,
                                 guidance_scale=guidance_scale, seed=seed, precision=precision)
    click.echo(f"{written} pictures in {output}, overview in {output / 'grid.png'}")


@main.group()
def data() -> None:
    """Look at preference data before training on it."""


@data.command("check")
@click.argument("path")
@click.option("--format", "kind", default="auto", type=click.Choice(["auto", "pickapic", "hpd", "table", "hub"]))
@click.option("--image-root", type=click.Path(), help="Folder that relative image paths start from.")
@click.option("--sheet", type=click.Path(path_type=Path), default=Path("contact_sheet.png"), show_default=True)
def data_check(path: str, kind: str, image_root: str | None, sheet: Path) -> None:
    """Count pairs, ties, duplicates and broken rows in PATH, and draw a contact sheet."""
    from visalign.data.check import check_pairs

    summary = check_pairs(path, kind, image_root, sheet)
    click.echo(summary.text())
    if summary.broken:
        sys.exit(1)


@main.command()
def doctor() -> None:
    """Versions, devices, attention kernels; what is missing and the command that fixes it."""
    from visalign.doctor import diagnose

    lines, healthy = diagnose()
    click.echo("\n".join(lines))
    if not healthy:
        sys.exit(1)


if __name__ == "__main__":
    main()
