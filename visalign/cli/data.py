"""`visalign data`: check or make preference data; and `visalign benchmark`."""

import shlex
import sys
from pathlib import Path

import click

from visalign.cli.options import (
    Names,
    Numbers,
    device_option,
    out_option,
    ranged,
    read_recipe,
    recipe_arguments,
    samples_option,
    sampling_options,
    set_option,
)
from visalign.cli.ray_options import ray_options, ray_settings
from visalign.cli.reading import how_to_read, reading_options
from visalign.cli.verbs import Verbs
from visalign.errors import UserError, speaks
from visalign.validation.ranges import (
    AnswerTokens,
    AtLeastTwo,
    Few,
    Fraction,
    Limit,
    Positive,
    RewardValue,
    Seed,
    SideLength,
    Temperature,
    Weight,
)


@click.group(cls=Verbs)
def data() -> None:
    """Check preference data before training on it, or make some."""


@data.command("check")
@click.argument("path")
@click.option("--format", "kind", default="auto", type=click.Choice(
    ["auto", "pickapic", "hpd", "hpdv3", "editreward", "imagereward", "table", "comparisons", "ratings", "captioned",
     "hub"]))
@click.option("--split", default="train", show_default=True, help="Which split of a folder or hub set.")
@click.option("--media-root", type=click.Path(), help="Folder that relative paths start from.")
@click.option("--buckets", "side", type=ranged(SideLength), metavar="SIDE",
              help="Also count the images of each aspect-ratio bucket around a square of SIDE pixels: 1024 for SDXL, "
                   "SD3 and FLUX, 512 for SD 1.5.")
@click.option("--sheet", type=click.Path(path_type=Path), default=Path("contact_sheet.png"), show_default=True)
@click.option("--model", help="Of pairs of text: a language model, to whose tokens and own answers they are compared.")
@click.option("--ches", is_flag=True, help="With --model: list the pairs whose answers are most alike to it.")
def data_check(path: str, kind: str, split: str, media_root: str | None, side: int | None, sheet: Path,
               model: str | None, ches: bool) -> None:
    """Count pairs, ties, duplicates, contradictions and broken rows in PATH, and draw a contact sheet.

    PATH is what data.path takes: a table, a folder of tables, or a folder of images or videos with captions; or a
    recipe (.yaml), of which each of data.sources is checked.
    """
    from visalign.config import DataSettings, OfflineConfig, TextDataSettings
    from visalign.data.check import check_pairs
    from visalign.data.text_pairs import is_text_set
    from visalign.media.buckets import Buckets, usual_step

    texts = TextDataSettings(path=path, split=split, media_root=media_root)
    if kind in ("auto", "table") and _is_table(Path(path)) and is_text_set(texts):
        from visalign.language.data_check import check_text_pairs

        found = check_text_pairs(texts, model, ches)
        click.echo(found.text())
        if found.broken or found.problem:
            sys.exit(1)
        return
    if model or ches:
        raise UserError("data check: --model and --ches are for pairs of text")
    if path.endswith((".yaml", ".yml")):
        from visalign.config.load import load_config

        data = load_config(path, kind=OfflineConfig).data
    else:
        data = DataSettings(path=path, format=kind, media_root=media_root, split=split)
    buckets = Buckets.around(side**2, usual_step(side**2)) if side else None
    summaries = [check_pairs(source, sheet.with_stem(f"{sheet.stem}-{place}" if data.sources else sheet.stem), buckets)
                 for place, source in enumerate(data.each, 1)]
    click.echo("\n\n".join(summary.text() for summary in summaries))
    if any(summary.broken or summary.problem for summary in summaries):
        sys.exit(1)


def _is_table(path: Path) -> bool:
    """Whether a path is a table here, or a folder of them."""
    from visalign.data.sources import has_tables, is_table

    try:
        return has_tables(path) if path.is_dir() else path.is_file() and is_table(path)
    except OSError:  # too long a name: whoever reads it says so
        return False


@data.command("pairs")
@click.argument("source", required=False)
@out_option("pairs", "Folder for pairs.parquet, scores and a contact sheet.")
@reading_options
@click.option("--model", help="Instead of SOURCE: a model that generates from --prompts.")
@click.option("--prompts", help="A text file, one prompt per line, or emoji:train.")
@click.option("--max-prompts", type=ranged(Limit))
@samples_option(8, AtLeastTwo)
@click.option("--branches", type=Numbers(), metavar="STEPS",
              help="With --model: samples of a prompt share their first steps and divide in two before each of these, "
                   "such as 2,6: trees of 4, whose leaves are paired, with the step in a column branch.")
@set_option
@sampling_options()
@click.option("--reward", "-r", "rewards", default="tiny-reward", show_default=True, type=Names(),
              help="A reward; for strategies pareto and tree several, separated by commas.")
@click.option("--dimension", help="Of the reward; its first by default.")
@click.option("--strategy", default="best_worst", show_default=True,
              type=click.Choice(["best_worst", "top_k", "margin", "sifted", "rso", "pareto", "tree"]),
              help="pareto (CaPO): of the best trade-offs between the rewards against the worst, with win rates as "
                   "rewards; tree (HERON): ordered by the first of the rewards that clearly differs.")
@click.option("--ranker", help="A comparing reward that ranks the pairs of strategy sifted.")
@click.option("--top", default=1, show_default=True, type=ranged(Few),
              help="Pairs per prompt, of top_k, rso, pareto and tree.")
@click.option("--rso-beta", type=ranged(Positive), help="For strategy rso: larger keeps worse ones; 0.5 by default.")
@click.option("--standardise", is_flag=True,
              help="For strategy pareto: each reward in its own standard deviations, within prompts.")
@click.option("--tree-margin", type=ranged(Weight),
              help="For strategy tree: of a reward's standard deviation, what is no difference; 0.5 by default.")
@click.option("--second-reward", help="Another reward; how far it agrees on a prompt's ranking is its pairs' chance.")
@click.option("--min-gap", default=0.0, show_default=True, type=ranged(Weight), help="Smaller differences are ties.")
@click.option("--min-confidence", default=0.0, show_default=True, type=ranged(Fraction),
              help="By the reward's own spread; 0.5 is a guess.")
@click.option("--seed", default=0, show_default=True, type=ranged(Seed))
@device_option
@ray_options
def data_pairs(source: str | None, out: Path, model: str | None, prompts: str | None, max_prompts: int | None,
               samples_per_prompt: int, branches: tuple[int, ...] | None, settings: tuple[str, ...],
               steps: int | None, guidance_scale: float | None, rewards: tuple[str, ...], dimension: str | None,
               strategy: str, ranker: str | None, top: int,
               rso_beta: float | None, standardise: bool, tree_margin: float | None, second_reward: str | None,
               min_gap: float, min_confidence: float, seed: int, device: str, prompts_from: str,
               prompts_from_names: bool, media_root: str | None, **cluster) -> None:
    """Turn the generations of SOURCE (a folder, a run, or a manifest) into a preference set.

    They are scored and paired; ties and doubtful pairs are left out and counted.

    \b
    visalign data pairs generated -r pickscore -o my_pairs
    visalign data pairs generated -r pickscore -o my_pairs --engine ray
    visalign data pairs --model tiny-sd3 --prompts emoji:train -o my_pairs
    visalign data pairs --model tiny-sd3 --prompts emoji:train --branches 2,6 --strategy margin --min-gap 1 -o pairs
    visalign data pairs generated -r pickscore,aesthetic --strategy pareto --top 4 -o my_pairs
    visalign data pairs generated -r ocr,pickscore,aesthetic --strategy tree --top 8 -o my_pairs
    """
    if bool(source) == bool(model and prompts):
        raise UserError("pairs: give SOURCE, the generations to pair, or --model with --prompts")
    if branches and not model:
        raise UserError("pairs: --branches says how samples are drawn, and SOURCE holds some already; give --model "
                        "with --prompts")
    from visalign.config.load import model_of
    from visalign.data.prompts import read_prompts
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.make_pairs import PairSettings, make_pairs
    from visalign.sampling.branching import Branching
    from visalign.sampling.folder import generate_to_folder

    branching = Branching(branches) if branches else None
    plan = PairSettings(strategy, dimension, ranker, top, min_gap, min_confidence, seed, rso_beta,
                        second_reward, standardise, tree_margin)
    ray = ray_settings(**cluster)
    read = how_to_read(prompts_from, prompts_from_names, media_root)
    if ray and model:
        raise UserError("pairs: --engine ray pairs what is there; draw it first with visalign generate --engine ray")
    if ray:
        from visalign.jobs.pairs_on_ray import pairs_on_ray

        counts, notes = pairs_on_ray(source, rewards, out, plan, ray, device=device, **read)
    else:
        device = str(pick_device(device))
        if model:
            source = str(out / "samples")
            if not (out / "samples" / "samples.jsonl").exists():
                generate_to_folder(model_of(model, settings), read_prompts(prompts, max_prompts), out / "samples",
                                   samples=samples_per_prompt, steps=steps, guidance_scale=guidance_scale, seed=seed,
                                   device=device, branching=branching)
        counts, notes = make_pairs(source, rewards, out, plan, device, branches=branches or (), **read)
    click.echo("\n".join([counts.text(), *(f"note: {note}" for note in notes)]))
    page = out / "pairs.html"  # of texts
    shown = f"page {page}" if page.exists() else f"contact sheet {out / 'sheet.png'}"
    click.echo(f"{out / ('pairs' if ray else 'pairs.parquet')}, {shown}")


@data.command("dialogues")
@click.argument("source")
@out_option("dialogue-pairs", "Folder for pairs.jsonl, which data.path takes.")
@click.option("--phrases", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="YAML with the lists satisfied and dissatisfied (and ignored) in place of the English ones.")
@click.option("--reward", "-r", help="Instead of phrases: a reward of text that reads each turn as an answer to the "
                                     "conversation before it, such as an `llm` asked in words.")
@click.option("--satisfied-at", type=ranged(RewardValue), help="With --reward: satisfied from this score on.")
@click.option("--dissatisfied-at", type=ranged(RewardValue), help="With --reward: dissatisfied from this score down.")
@click.option("--model", help="A language model that writes the better answers that no dialogue has.")
@click.option("--hint", help="What that model sees as the user's turn, with {prompt} and {complaint} in it.")
@click.option("--system", help="Text of the system's turn for that model.")
@click.option("--max-tokens", default=256, show_default=True, type=ranged(AnswerTokens))
@click.option("--temperature", default=0.7, show_default=True, type=ranged(Temperature))
@click.option("--seed", default=0, show_default=True, type=ranged(Seed))
@device_option
def data_dialogues(source: str, out: Path, phrases: Path | None, reward: str | None, satisfied_at: float | None,
                   dissatisfied_at: float | None, model: str | None, hint: str | None, system: str | None,
                   max_tokens: int, temperature: float, seed: int, device: str) -> None:
    """Turn conversations into pairs, by what users said next (WildFeedback).

    SOURCE is a table with a column messages (or conversation): lists of {role, content}. The answer before a complaint
    is rejected; chosen is the later answer that satisfied, or one that --model revises with the complaint as a hint.
    A column satisfied (true, false, null for each turn after an answer) gives precision and recall of the signal.

    \b
    visalign data dialogues chats.jsonl -o dialogue-pairs
    visalign data dialogues chats.jsonl -o dialogue-pairs --model smollm2
    """
    if (reward is None) != (satisfied_at is None) or (reward is None) != (dissatisfied_at is None):
        raise UserError("data dialogues: --reward, --satisfied-at and --dissatisfied-at go together")
    if reward and phrases:
        raise UserError("data dialogues: give --phrases or --reward, not both")
    if hint and not model:
        raise UserError("data dialogues: --hint is for --model")
    from visalign.config.language_answers import AnswerSettings
    from visalign.data.user_reactions import ReactionPhrases, read_phrases
    from visalign.generators.hardware.devices import pick_device
    from visalign.language.dialogue_pairs import HINT, Reviser, RewardedReactions, dialogue_pairs

    signal = (RewardedReactions(reward, satisfied_at, dissatisfied_at) if reward
              else read_phrases(phrases) if phrases else ReactionPhrases())
    reviser = Reviser(model, AnswerSettings(max_tokens=max_tokens, temperature=temperature), hint or HINT, system, seed,
                      device) if model else None
    done = dialogue_pairs(source, out, signal, reviser, str(pick_device(device)))
    click.echo(done.text())
    click.echo(f"{out / 'pairs.jsonl'}; train on them with: visalign lm train language/dpo "
               f"{shlex.quote(f'data.path={out}/pairs.jsonl')} data.feedback=null")


@data.command("cache")
@recipe_arguments
@ray_options
def data_cache(config: str, overrides: tuple[str, ...], **cluster) -> None:
    """Encode ahead what training by CONFIG will read: latents and embeddings, into data.cache.

    Run by torchrun, all processes share the work; a command that was stopped continues.

    \b
    visalign data cache sdxl_dpo data.path=pairs.jsonl
    torchrun --nproc_per_node 8 -m visalign data cache sdxl_dpo data.path=pairs.jsonl
    visalign data cache sdxl_dpo data.path=pairs.jsonl --engine ray --ray-address 10.0.0.1:6379
    """
    from visalign.jobs.make_cache import make_cache

    ray = ray_settings(**cluster)
    if ray:
        from visalign.jobs.cache_on_ray import cache_on_ray

        found = cache_on_ray(read_recipe(config, overrides), ray)
    else:
        found = make_cache(read_recipe(config, overrides))
    if speaks():
        click.echo(f"{found.folder}: {found.media} images or videos and {found.prompts} prompts of {found.pairs} "
                   f"pairs, of which {found.encoded} were not there before")


@click.group(cls=Verbs)
def benchmark() -> None:
    """Prepare generations for the scripts of public benchmark suites."""


@benchmark.command("layout")
@click.argument("source")
@click.option("--suite", required=True, help="geneval:FILE, t2i-compbench:FILE, dpg-bench:FOLDER or vbench:FILE.")
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True)
def benchmark_layout(source: str, suite: str, out: Path) -> None:
    """Copy generations of a public suite's prompts into the folders that its own scripts expect."""
    from visalign.jobs.benchmark_layout import lay_out

    done = lay_out(source, suite, out)
    click.echo(f"{done.files} files for {done.prompts} prompts in {out}"
               + (f"; {done.missing} prompts of the suite have too few generations" if done.missing else ""))
    for reason in done.refused[:20]:
        click.echo(f"left out: {reason}")
