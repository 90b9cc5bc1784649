"""`visalign quickstart` and `visalign train`."""

import contextlib
from pathlib import Path

import click

from visalign.cli.after_run import demo_of, print_result
from visalign.cli.language import run_language
from visalign.cli.options import read_recipe, recipe_arguments, resume_options, resumes
from visalign.cli.verbs import Verb
from visalign.errors import UserError, nearest

QUICKSTARTS = {"tiny-sdxl": "quickstart", "tiny-sd3": "ai_feedback"}


@click.command(cls=Verb)
@recipe_arguments
@click.option("--rollouts", type=click.Choice(["local", "ray"]),
              help="Where an online recipe's samples are drawn: rollout.engine=ray is actors on a Ray cluster.")
@click.option("--dry-run", is_flag=True, help="Print settings, sizes and a memory estimate; load nothing.")
@click.option("--accelerate", type=click.Path(path_type=Path), metavar="FILE",
              help="With --dry-run: plan for one of the processes of a configuration of accelerate.")
@click.option("--card", type=click.FloatRange(1, 1024), metavar="GIB",
              help="With --dry-run: plan for a GPU with this memory, which need not be here.")
@resume_options
def train(config: str, overrides: tuple[str, ...], rollouts: str | None, dry_run: bool, accelerate: Path | None,
          card: float | None, resume: bool, auto_resume: bool) -> None:
    """Fine-tune a generator as CONFIG says.

    CONFIG is a file, or the name of a shipped recipe (`visalign list recipes`); KEY=VALUE pairs override it.

    \b
    visalign train sdxl_dpo data.path=pairs.jsonl model=my_sdxl.safetensors
    visalign train sft_folder data.path=my_images optim.lr=1e-5
    visalign train online/sdxl_ddpo rollout.prompts=prompts.txt --dry-run --card 24
    visalign train online/flow_grpo_ray --rollouts ray rollout.ray.actors=4
    """
    if card is not None and not dry_run:
        raise click.UsageError("--card is for --dry-run: a run computes on what is here")
    if accelerate is not None and not dry_run:
        raise click.UsageError("--accelerate is for --dry-run: a run is started by accelerate launch --config_file")
    settings = read_recipe(config, (*overrides, *([f"rollout.engine={rollouts}"] if rollouts else ())), None,
                           not dry_run)
    if settings.loop in ("language", "adapt"):
        if accelerate is not None:
            raise click.UsageError("--accelerate: memory of language models is planned for one process that holds them "
                                   "whole; leave it out")
        run_language(settings, dry_run, resume, auto_resume, card)
        return
    if dry_run:
        from visalign.jobs.dry_run import describe_run
        from visalign.parallel.division import as_configured

        with as_configured(accelerate) if accelerate else contextlib.nullcontext():
            click.echo(describe_run(settings, card))
        return
    from visalign.jobs.train import train as run_recipe

    result = run_recipe(settings, resume=resumes(settings, resume, auto_resume))
    print_result(settings, result, demo_of(settings, result.folder))


@click.command(cls=Verb)
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Continue an interrupted quickstart.")
def quickstart(overrides: tuple[str, ...], resume: bool) -> None:
    """Align an embedded model in minutes on a CPU: model=tiny-sdxl (from drawings) or model=tiny-sd3 (AI feedback)."""
    from visalign.config.recipes import recipes
    from visalign.jobs.train import train as run_recipe

    models = [o.removeprefix("model=") for o in overrides if o.startswith("model=")]
    model = models[-1] if models else "tiny-sdxl"
    if model not in QUICKSTARTS:
        raise UserError(f"quickstart model={model}: no quickstart for it{nearest(model, QUICKSTARTS)}; use "
                        "`visalign train` with a recipe of your own for other checkpoints")
    rest = tuple(o for o in overrides if not o.startswith("model="))
    settings = read_recipe(recipes()[QUICKSTARTS[model]], rest)
    print_result(settings, run_recipe(settings, resume=resume), "visalign init recipe.yaml")
