"""`visalign evaluate`, `visalign compare` and `visalign layout`."""

from pathlib import Path

import click

from visalign.cli.options import Names, ranged
from visalign.validation.ranges import Few, GuidanceScale, Limit, SamplingSteps, Seed


def measuring_options(command):
    """What both measuring verbs may be told."""
    options = [
        click.option("--prompts", help="A text file, one prompt a line, or emoji:held_out, families:layout, "
                                       "geneval:FILE ... (default: the run's own)."),
        click.option("--max-prompts", type=ranged(Limit)),
        click.option("--seeds", default=16, show_default=True, type=ranged(Few), help="Generations of a prompt."),
        click.option("--steps", type=ranged(SamplingSteps), help="Sampling steps (default: the run's, or 28)."),
        click.option("--guidance-scale", type=ranged(GuidanceScale), help="Default: the run's, or 4.5."),
        click.option("--seed", default=0, show_default=True, type=ranged(Seed)),
        click.option("--rewards", "-r", type=Names(may_be_none=True),
                     help="As for `score` (default: the run's, or tiny-reward,tiny-clip)."),
        click.option("--proxy", help="The reward that was optimised (default: the run's, or the first)."),
        click.option("--features", help="open_clip model that measures diversity (default: the run's, or tiny-clip)."),
        click.option("--reference", help="Real images, for fidelity and coverage (default: the base's samples)."),
        click.option("--lpips", help="AlexNet of torchvision, .safetensors or .pth, for LPIPS."),
        click.option("--cache", default="~/.cache/visalign/features.sqlite", show_default=True,
                     help="Where features are kept."),
        click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"])),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def request_of(device: str, **given):
    from visalign.generators.loading import pick_device
    from visalign.jobs.evaluate import EvaluationRequest

    return EvaluationRequest(device=str(pick_device(device)), **given)


@click.command()
@click.argument("source")
@click.option("--checkpoints", default="last", show_default=True, type=click.Choice(["last", "all"]),
              help="Of a run: its end, or every checkpoint it kept, with curves against the KL.")
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Default: evaluations/ and the source's name.")
@measuring_options
def evaluate(source: str, checkpoints: str, out: Path | None, **given) -> None:
    """What did alignment cost? SOURCE is a run, a checkpoint, a folder of generations, a manifest or a pipeline.

    A run and a checkpoint are compared with the untrained model. A command that was stopped continues when given again.
    """
    from visalign.jobs.evaluate import default_folder, evaluate_source

    if out is None:
        out = default_folder(source)
        out = out.with_name(f"{out.name}-checkpoints") if checkpoints == "all" else out
    report(evaluate_source(source, request_of(**given), out, checkpoints), out)


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path("comparison"), show_default=True)
@measuring_options
def compare(models: tuple[str, ...], out: Path, **given) -> None:
    """Compare MODELS, given as NAME=SOURCE, on the same prompts and seeds; the first is the base."""
    from visalign.jobs.evaluate import compare_sources, read_names

    report(compare_sources(read_names(models, "compare"), request_of(**given), out), out)


def report(results, out: Path) -> None:
    """The verdict, what it rests on, and where the rest is."""
    for name, verdict in results.verdicts.items():
        click.echo(f"{name}: {verdict.word}")
        for reason in verdict.reasons if len(results.verdicts) < 5 or name == results.models[-1] else ():
            click.echo(f"  {reason}")
    if not results.verdicts:
        for metric in ("diversity/vendi", "diversity/distance", *(f"reward/{name}" for name in
                                                             results.measured[results.base].rewards)):
            if metric in results.figures[results.base]:
                click.echo(f"{metric:28} {results.figures[results.base][metric]}")
    for note in results.notes:
        click.echo(f"note: {note}")
    click.echo(f"report in {out / 'report.html'}, every number in {out / 'results.parquet'} and {out / 'results.json'}")


@click.command()
@click.argument("source")
@click.option("--suite", required=True, help="geneval:FILE, t2i-compbench:FILE, dpg-bench:FOLDER or vbench:FILE.")
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True)
def layout(source: str, suite: str, out: Path) -> None:
    """Lay generations of a public suite's prompts out as that suite's own scripts expect them."""
    from visalign.jobs.benchmark_layout import lay_out

    done = lay_out(source, suite, out)
    click.echo(f"{done.files} files for {done.prompts} prompts in {out}"
               + (f"; {done.missing} prompts of the suite have too few generations" if done.missing else ""))
    for reason in done.refused[:20]:
        click.echo(f"left out: {reason}")
