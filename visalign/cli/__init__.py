"""The command line: one verb per job. Heavy imports wait until a verb runs."""

import sys
from pathlib import Path

import click

from visalign import __version__
from visalign.cli.demo import demo, votes
from visalign.cli.evaluate import compare, evaluate, layout
from visalign.cli.generate import generate, guide
from visalign.cli.options import Names, Overridable, ranged, read_recipe
from visalign.cli.reading import how_to_read, reading_options
from visalign.errors import UserError, notice
from visalign.trainers.stopping import heard
from visalign.validation.ranges import (
    AtLeastTwo,
    Few,
    Fraction,
    GuidanceScale,
    Limit,
    Portion,
    Positive,
    SamplingSteps,
    Seed,
    Weight,
)

_RESUMED = "; the same command with --resume continues, or starts again where nothing was kept yet"
_GO_ON = dict.fromkeys(("train", "quickstart", "reward", "guide"), _RESUMED) | dict.fromkeys(
    ("score", "generate", "evaluate", "compare", "pairs", "rollout"), "; the same command continues")
"""How to go on after a signal, by command, where the work itself has not said so."""


class Group(click.Group):
    """Turns what a user can mend into one sentence and exit code 1; `--debug` shows the traceback."""

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
        except OSError as error:
            if ctx.params.get("debug"):
                raise
            from visalign.storage.files import refusal

            click.echo(f"visalign: {refusal(error)}", err=True)
            sys.exit(1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks and library warnings.")
@click.version_option(__version__, prog_name="visalign")
def main(debug: bool) -> None:
    """Preference alignment for image and video generators: fine-tune, judge, see what it cost, compare."""
    import os

    notice.cache_clear()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names that are not UTF-8, terminals that know no é
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads would take the decoding threads' cores
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


@main.command(cls=Overridable)
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print settings, sizes and a memory estimate; load nothing.")
@click.option("--resume", is_flag=True, help="Continue the run in output.folder from its last checkpoint.")
def train(config: Path, overrides: tuple[str, ...], dry_run: bool, resume: bool) -> None:
    """Fine-tune as CONFIG says; KEY=VALUE pairs override it (optim.lr=1e-5 model=tiny-sdxl)."""
    settings = read_recipe(config, overrides)
    if dry_run:
        from visalign.jobs.dry_run import describe_run

        click.echo(describe_run(settings))
        return
    from visalign.jobs.train import train as run_recipe

    _print_result(run_recipe(settings, resume=resume))


QUICKSTARTS = {"tiny-sd3": "quickstart.yaml", "tiny-sdxl": "quickstart_sdxl.yaml"}


@main.command(cls=Overridable)
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Continue an interrupted quickstart.")
def quickstart(overrides: tuple[str, ...], resume: bool) -> None:
    """Align an embedded model in minutes on a CPU: model=tiny-sd3 (Flow-DPO) or model=tiny-sdxl (Diffusion-DPO)."""
    from visalign.config.load import recipe_path
    from visalign.errors import nearest
    from visalign.jobs.train import train as run_recipe

    models = [o.removeprefix("model=") for o in overrides if o.startswith("model=")]
    model = models[-1] if models else "tiny-sd3"
    if model not in QUICKSTARTS:
        raise UserError(f"quickstart model={model}: no quickstart for it{nearest(model, QUICKSTARTS)}; use "
                        "`visalign train` with a recipe of your own for other checkpoints")
    rest = tuple(o for o in overrides if not o.startswith("model="))
    _print_result(run_recipe(read_recipe(recipe_path(QUICKSTARTS[model]), rest), resume=resume))


def _print_result(result) -> None:
    from visalign.jobs.train import result_figures

    for name, text in result_figures(result).items():
        click.echo(f"{name:36} {text}")
    for reason in result.verdict.reasons:
        click.echo(f"{'':36} {reason}")
    click.echo(f"{'time':36} {result.seconds:.0f} s")
    click.echo(f"{'report':36} {result.folder / 'report.html'}")


@main.command(cls=Overridable)
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path("votes"), show_default=True)
@click.option("--pairs", default=64, show_default=True, type=ranged(Limit), help="Pairs of images to draw.")
@click.option("--vote-by", help="Let a reward fill in the choices instead of leaving them to people.")
@click.option("--seed", default=0, show_default=True, type=ranged(Seed))
def rollout(config: Path, overrides: tuple[str, ...], out: Path, pairs: int, vote_by: str | None, seed: int) -> None:
    """Draw pairs of images with the sampler of online CONFIG, and a table to vote in (D3PO)."""
    from visalign.config import OnlineConfig
    from visalign.jobs.draw_votes import draw_for_votes

    count = draw_for_votes(read_recipe(config, overrides, OnlineConfig), out, pairs, vote_by, seed)
    click.echo(f"{count} pairs in {out / 'votes.csv'}, contact sheet {out / 'sheet.png'}")


@main.group()
def data() -> None:
    """Look at preference data before training on it."""


@data.command("check")
@click.argument("path")
@click.option("--format", "kind", default="auto", type=click.Choice(
    ["auto", "pickapic", "hpd", "hpdv3", "imagereward", "table", "comparisons", "ratings", "hub"]))
@click.option("--split", default="train", show_default=True, help="Which split of a folder or hub set.")
@click.option("--image-root", type=click.Path(), help="Folder that relative image paths start from.")
@click.option("--sheet", type=click.Path(path_type=Path), default=Path("contact_sheet.png"), show_default=True)
def data_check(path: str, kind: str, split: str, image_root: str | None, sheet: Path) -> None:
    """Count pairs, ties, duplicates, contradictions and broken rows in PATH, and draw a contact sheet."""
    from visalign.data.check import check_pairs

    summary = check_pairs(path, kind, image_root, sheet, split)
    click.echo(summary.text())
    if summary.broken or summary.problem:
        sys.exit(1)


@main.command()
@click.argument("source", required=False)
@click.option("--rewards", "-r", default="tiny-reward,tiny-clip", show_default=True, type=Names(),
              help="Names, KIND:SOURCE, folders or YAML files, separated by commas.")
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path("scores.parquet"), show_default=True)
@click.option("--list", "list_rewards", is_flag=True, help="Name every reward with one line about it.")
@reading_options
@click.option("--max-failures", default=0.05, show_default=True, type=ranged(Portion),
              help="Stop when a judge cannot judge more than this share.")
@click.option("--workers", type=ranged(Few), help="Threads that decode files (default: half the cores).")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--no-gallery", is_flag=True, help="Write the table only.")
def score(source: str | None, rewards: tuple[str, ...], out: Path, list_rewards: bool, max_failures: float,
          workers: int | None, device: str, no_gallery: bool, **reading) -> None:
    """Judge every image and video of SOURCE: a folder, a run, or a manifest; write a table and a gallery.

    A run that was stopped continues when the same command is given again.
    """
    if list_rewards:
        from visalign.rewards.registry import describe_rewards

        for name, what, line in describe_rewards():
            click.echo(f"{name:20} {what:22} {line}")
        return
    if not source:
        raise click.UsageError("Missing argument 'SOURCE' (or --list).")
    from visalign.generators.loading import pick_device
    from visalign.jobs.score import score_generations

    done = score_generations(source, list(rewards), out,
                             device=str(pick_device(device)), max_failures=max_failures,
                             workers=workers, gallery=not no_gallery, **how_to_read(**reading))
    click.echo("\n".join([*done.lines, *(f"note: {note}" for note in done.notes)]))
    click.echo(f"{done.rows} rows in {done.table} (of {done.kinds}), {done.broken} files unreadable"
               + (f", gallery in {done.gallery}" if done.gallery else ""))


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--from", "source", help="Generations to pair: a folder, a run, or a manifest.")
@reading_options
@click.option("--model", help="Or a model to make them with, from --prompts.")
@click.option("--prompts", help="A text file, one prompt a line, or emoji:train.")
@click.option("--per-prompt", default=8, show_default=True, type=ranged(AtLeastTwo))
@click.option("--steps", default=28, show_default=True, type=ranged(SamplingSteps))
@click.option("--guidance-scale", default=4.5, show_default=True, type=ranged(GuidanceScale))
@click.option("--max-prompts", type=ranged(Limit))
@click.option("--reward", "-r", default="tiny-reward", show_default=True)
@click.option("--dimension", help="Of the reward; its first by default.")
@click.option("--strategy", default="best_worst", show_default=True,
              type=click.Choice(["best_worst", "top_k", "margin", "sifted"]))
@click.option("--ranker", help="A comparing reward that ranks the pairs of strategy sifted.")
@click.option("--top", default=1, show_default=True, type=ranged(Few), help="Pairs a prompt of strategy top_k.")
@click.option("--min-gap", default=0.0, show_default=True, type=ranged(Weight), help="Smaller differences are ties.")
@click.option("--min-confidence", default=0.0, show_default=True, type=ranged(Fraction),
              help="By the judge's own spread; 0.5 is a guess.")
@click.option("--seed", default=0, show_default=True, type=ranged(Seed))
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
def pairs(out: Path, source: str | None, model: str | None, prompts: str | None, per_prompt: int, steps: int,
          guidance_scale: float, max_prompts: int | None, reward: str, dimension: str | None, strategy: str,
          ranker: str | None, top: int, min_gap: float, min_confidence: float, seed: int, device: str,
          **reading) -> None:
    """Turn generations into a preference set in OUT: judged, paired, ties and doubtful pairs left out and counted."""
    if bool(source) == bool(model and prompts):
        raise UserError("pairs: give --from with generations, or --model with --prompts")
    from visalign.config.load import model_of
    from visalign.data.prompts import read_prompts
    from visalign.generators.loading import pick_device
    from visalign.jobs.make_pairs import PairSettings, make_pairs
    from visalign.sampling.folder import generate_to_folder

    settings = PairSettings(strategy, dimension, ranker, top, min_gap, min_confidence, seed)
    if model:
        source = str(out / "samples")
        if not (out / "samples" / "samples.jsonl").exists():
            generate_to_folder(model_of(model), read_prompts(prompts, max_prompts), out / "samples",
                               samples=per_prompt, steps=steps, guidance_scale=guidance_scale, seed=seed)
    counts, notes = make_pairs(source, reward, out, settings, str(pick_device(device)), **how_to_read(**reading))
    click.echo("\n".join([counts.text(), *(f"note: {note}" for note in notes)]))
    click.echo(f"{out / 'pairs.parquet'}, contact sheet {out / 'sheet.png'}")


@main.group()
def reward() -> None:
    """Train the unified reward, measure any reward, take its biases out."""


@reward.command("train", cls=Overridable)
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Continue the run in output.folder from its last checkpoint.")
def reward_train(config: Path, overrides: tuple[str, ...], resume: bool) -> None:
    """Train the unified reward as CONFIG says; KEY=VALUE pairs override it."""
    from visalign.config import RewardConfig
    from visalign.jobs.reward_train import train_reward

    folder = train_reward(read_recipe(config, overrides, RewardConfig), resume)
    click.echo(f"the reward is in {folder / 'reward'}, its report in {folder / 'eval' / 'report.html'}")


@reward.command("eval")
@click.argument("reward_spec", metavar="REWARD")
@click.argument("data_path", metavar="DATA")
@click.option("--dimensions", default="alignment,quality,aesthetics,motion", show_default=True, type=Names(),
              help="Labelled columns to look for.")
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path("reward-eval"), show_default=True)
@click.option("--image-root", type=click.Path(), help="Folder that relative paths start from.")
@click.option("--no-edits", is_flag=True, help="Leave out the robustness test, which triples the work.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
def reward_eval(reward_spec: str, data_path: str, dimensions: tuple[str, ...], out: Path, image_root: str | None,
                no_edits: bool, device: str) -> None:
    """How far REWARD agrees with the annotations in DATA, with intervals, and what it gets most wrong."""
    from visalign.data.annotations import read_annotations
    from visalign.evaluation.reward_eval import summary_lines
    from visalign.generators.loading import pick_device
    from visalign.jobs.reward_eval import evaluate_reward

    reports = evaluate_reward(reward_spec, read_annotations(data_path, dimensions, image_root), out,
                              str(pick_device(device)), edits=not no_edits)
    click.echo("\n".join([*summary_lines(reports), f"report in {out / 'report.html'}"]))


@reward.command("annotate")
@click.argument("reward_spec", metavar="RUN")
@click.argument("data_path", metavar="DATA")
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path("annotated.parquet"), show_default=True)
@click.option("--dimensions", default="alignment,quality,aesthetics,motion", show_default=True, type=Names(),
              help="Labelled columns to look for.")
@click.option("--most", default=3.0, show_default=True, type=ranged(Positive),
              help="Strengths are kept below this many log-odds.")
@click.option("--image-root", type=click.Path(), help="Folder that relative paths start from.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
def reward_annotate(reward_spec: str, data_path: str, out: Path, dimensions: tuple[str, ...], most: float,
                    image_root: str | None, device: str) -> None:
    """Write DATA with what the reward of RUN says of each comparison: strength, flip_chance, margin, source.

    Training reads the table as it reads DATA. RUN should not have learnt from DATA: a reward takes the labels it has
    seen for clearer than they are.
    """
    from visalign.generators.loading import pick_device
    from visalign.jobs.annotate import annotate

    done = annotate(reward_spec, data_path, dimensions, out, image_root=image_root, most=most,
                    device=str(pick_device(device)))
    click.echo(f"{done.rows} rows in {done.table}: {done.scored} scored, mean strength {done.mean_strength:.3f}; the "
               f"reward disagrees with {done.disagreeing} labels")


@reward.command("debias")
@click.argument("reward_spec", metavar="REWARD")
@click.argument("source")
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path("bias.json"), show_default=True)
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
def reward_debias(reward_spec: str, source: str, out: Path, device: str) -> None:
    """Fit what REWARD pays for brightness, sharpness and the like on SOURCE, samples of the base model."""
    from visalign.generators.loading import pick_device
    from visalign.jobs.debias import debias

    model = debias(reward_spec, source, out, str(pick_device(device)))
    click.echo(f"{'feature':18} {'before':>7} {'after':>7}   correlation with the reward, on {model.samples} samples")
    for name in model.before:
        click.echo(f"{name:18} {model.before[name]:+7.3f} {model.after[name]:+7.3f}")
    click.echo(f"use it as {{kind: debiased, of: [{reward_spec}], model: {out}}}")


@main.command()
def doctor() -> None:
    """Versions, devices, attention kernels; what is missing and the command that fixes it."""
    from visalign.jobs.doctor import diagnose

    lines, healthy = diagnose()
    click.echo("\n".join(lines))
    if not healthy:
        sys.exit(1)


for command in (generate, guide, evaluate, compare, layout, demo, votes):
    main.add_command(command)
