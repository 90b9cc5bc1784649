"""`visalign demo`: the comparison app; and `visalign votes`: drawing, counting and exporting votes."""

from pathlib import Path

import click

from visalign.cli.options import (
    Names,
    device_option,
    out_option,
    ranged,
    read_recipe,
    recipe_arguments,
    sampling_options,
)
from visalign.cli.verbs import Verb, Verbs
from visalign.errors import UserError
from visalign.validation.ranges import Few, FewOrNone, Fraction, Limit, Port, Seed


@click.command(cls=Verb)
@click.argument("models", nargs=-1)
@click.option("--set", "model_settings", multiple=True, metavar="KEY=VALUE", help="As for `generate`.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another address opens it to other machines.")
@click.option("--port", default=7860, show_default=True, type=ranged(Port))
@click.option("--user", help="Require this user and a password.")
@click.option("--password", envvar="VISALIGN_DEMO_PASSWORD", help="Preferably set as VISALIGN_DEMO_PASSWORD.")
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
              help="A name under which it is reached behind a proxy or tunnel (*.NAME: all below); may be repeated.")
@click.option("--trusted-proxy", "trusted_proxies", multiple=True, metavar="ADDRESS",
              help="Trust the X-Forwarded headers of this address or network; may be repeated.")
@click.option("--root-path", default="", metavar="/PATH", help="The path under which a proxy serves it.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("demo-votes"), show_default=True,
              help="Folder of votes and their media.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--prompts", help="A file, one per line, or emoji:held_out, videos:held_out ... (default: the run's).")
@sampling_options("the run's, or the model's own")
@click.option("--rewards", "-r", default="tiny-reward,tiny-clip", show_default=True, type=Names(may_be_none=True),
              help="As for `score`.")
@click.option("--features", default="tiny-clip", show_default=True, help="open_clip model that measures diversity.")
@click.option("--pairs", default=60, show_default=True, type=ranged(FewOrNone), help="Pairs generated ahead of voting.")
@click.option("--drawn", "rollouts", multiple=True, type=click.Path(exists=True, path_type=Path),
              help="A folder of `visalign votes draw` to vote on (D3PO); may be repeated.")
@click.option("--anchors", default=0.0, show_default=True, type=ranged(Fraction), help="Share of ballots that are "
              "anchors: a spoilt side, or a pair shown again, to see who votes reliably.")
@click.option("--ask-by", metavar="REWARD", help="A reward that knows users (model.variational, model.ideal_points, "
              "model.groups): every other pair is the one that tells it most of the voter.")
@click.option("--allow-train", is_flag=True, help="Let the page start training on this machine.")
@device_option
@click.option("--keep", default=2, show_default=True, type=ranged(Few), help="Models held in memory at once.")
@click.option("--upload-megabytes", default=64, show_default=True, type=ranged(Few), help="Largest uploaded file.")
def demo(models: tuple[str, ...], **given) -> None:
    """Compare MODELS, given as NAME=SOURCE, in the browser: side by side, blind, and on a leaderboard.

    Without MODELS, the last finished run below --runs meets the model it was trained from; otherwise an
    embedded model meets its LoRA. One model alone meets itself on two seeds. Sources are as for `compare`; one with
    +negative:ADAPTER needs a --guidance-scale above 1.
    """
    from visalign.jobs.evaluate import read_names

    try:
        from visalign_demo import DemoSettings, serve
    except ModuleNotFoundError as error:
        if error.name != "visalign_demo":
            raise
        raise UserError("demo: the app is not installed; install visalign from its repository") from None
    asked = dict(given)
    if models:
        asked["models"] = read_names(models, "demo")
    elif run := last_run(given["runs"]):
        asked["models"] = run
    else:
        asked |= embedded_pair({key: value for key, value in given.items() if value})
    serve(DemoSettings(**asked))


def last_run(runs: Path) -> dict[str, str] | None:
    """The base and the newest run of an image or video model with an export; None where there is none."""
    from visalign.evaluation.sources import is_language_run, run_config

    exports = sorted((export for export in runs.glob("*/export") if not is_language_run(export.parent)),
                     key=lambda path: path.stat().st_mtime)
    if not exports:
        return None
    run = exports[-1].parent
    return {"base": run_config(run).model.source, "aligned": str(run)}


def embedded_pair(given: dict) -> dict:
    """The embedded model and its LoRA, sampled as the LoRA was trained unless the user said otherwise."""
    from visalign.generators.files.embedded import MODEL_ASSETS

    return {"models": {"base": "tiny-sd3", "aligned": f"tiny-sd3+{MODEL_ASSETS / 'tiny-sd3-aligned'}"},
            "model_settings": ("attention=math", "prompt_tokens=8"), "steps": 12, "guidance_scale": 1.0} | {
                key: given[key] for key in ("model_settings", "steps", "guidance_scale") if key in given}


@click.group(cls=Verbs)
def votes() -> None:
    """Draw pairs to vote on, count the votes given in `visalign demo`, and export them for training."""


@votes.command("draw")
@recipe_arguments
@out_option("votes")
@click.option("--pairs", default=64, show_default=True, type=ranged(Limit), help="Pairs of samples to draw.")
@click.option("--reward", "-r", help="Let a reward fill in the choices instead of leaving them to people.")
@click.option("--seed", default=0, show_default=True, type=ranged(Seed))
def votes_draw(config: str, overrides: tuple[str, ...], out: Path, pairs: int, reward: str | None, seed: int) -> None:
    """Draw pairs of samples with the sampler of online CONFIG, and a table for the votes (D3PO).

    \b
    visalign votes draw online/d3po_votes -o votes
    """
    from visalign.config import OnlineConfig
    from visalign.jobs.draw_votes import draw_for_votes

    count = draw_for_votes(read_recipe(config, overrides, OnlineConfig), out, pairs, reward, seed)
    click.echo(f"{count} pairs in {out / 'votes.csv'}, contact sheet {out / 'sheet.png'}")


@votes.command("export")
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@out_option(None, "Default: FOLDER/export.")
@click.option("--per-voter", is_flag=True, help="A row for every vote, with a hash of who gave it, instead of the "
              "majority's.")
@click.option("--chance", is_flag=True, help="Add the share that voted with the majority: for DPO, the chance that "
              "it is right.")
@click.option("--arena", is_flag=True, help="Write arena.parquet alone, a row a vote, as analyses of LMArena read it.")
def votes_export(folder: Path, out: Path | None, per_voter: bool, chance: bool, arena: bool) -> None:
    """Write comparisons.csv, which `train` and `reward train` read, and D3PO's tables, from a demo's FOLDER.

    Votes on answers become pairs.jsonl, which `lm train` reads, and comparisons.jsonl.
    """
    from visalign.votes import VoteDatabase, export_arena, export_votes

    if arena:
        if per_voter or chance:
            raise UserError("votes export: --arena writes every vote as it is; leave out --per-voter and --chance")
        file = (out or folder / "export") / "arena.parquet"
        click.echo(f"{export_arena(existing(folder, VoteDatabase), file)} votes: {file}")
        return
    done = export_votes(existing(folder, VoteDatabase), out or folder / "export", per_voter, chance)
    click.echo(f"{done.decided} decided pairs, {done.ties} ties, {done.skipped} only skipped: {done.comparisons}")
    for table in done.rollouts:
        click.echo(f"for D3PO: {table}")


@votes.command("board")
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--dimension", default="overall", show_default=True)
@click.option("--style/--no-style", default=False, show_default=True, help="Measure how the media look (once), and "
              "take brightness, saturation, sharpness, file size and motion out of the votes.")
@click.option("--page", type=click.Path(path_type=Path), help="Write the fair ranking as an HTML page, too.")
def votes_board(folder: Path, dimension: str, style: bool, page: Path | None) -> None:
    """Print the leaderboard of the votes in a demo's FOLDER, and how far voters agree.

    First the votes as they are; then a fair ranking with the side (and --style) taken out, ties as ties, and intervals
    by voter; what sways a vote; and how reliable each voter is, by a hashed name. """
    from visalign.jobs.votes_board import count_votes
    from visalign.votes import VoteDatabase

    click.echo("\n".join(count_votes(existing(folder, VoteDatabase), dimension, style, page)))


def existing(folder: Path, kind):
    """The vote database in a folder. Raises UserError when there is none."""
    if not (folder / "votes.sqlite").is_file():
        raise UserError(f"votes {folder}: holds no votes.sqlite; name the --folder of `visalign demo`")
    return kind(folder)
