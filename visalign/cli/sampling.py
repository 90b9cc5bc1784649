"""`visalign generate`, and `visalign guide`: the latent rewards it can follow."""

import math
from pathlib import Path

import click

from visalign.cli.options import (
    Names,
    device_option,
    out_option,
    ranged,
    read_numbers,
    read_recipe,
    recipe_arguments,
    resume_options,
    resumes,
    samples_option,
    sampling_options,
    set_option,
)
from visalign.cli.ray_options import ray_options, ray_settings
from visalign.cli.verbs import Verb, Verbs
from visalign.errors import UserError
from visalign.validation.ranges import Few, Limit, Portion, Positive, Seed


@click.command(cls=Verb)
@click.argument("model")
@click.argument("prompts", nargs=-1, required=True)
@click.option("--out", "-o", default="generated", show_default=True,
              help="Folder for media, grid and samples.jsonl; with --engine ray it may be a URL.")
@click.option("--lora", type=click.Path(exists=True, path_type=Path), help="A LoRA folder or file to load first.")
@samples_option(4)
@set_option
@sampling_options()
@click.option("--seed", default=0, show_default=True, type=ranged(Seed))
@click.option("--precision", default="auto", type=click.Choice(["auto", "fp32", "bf16", "fp16"]))
@device_option
@click.option("--video-format", type=click.Choice(["mp4", "webm", "mkv", "gif", "frames"]),
              help="How videos are written (default: mp4; mkv and frames are lossless).")
@click.option("--best-of", default=1, show_default=True, type=ranged(Few),
              help="Draw this many candidates of each sample and keep the one with the highest --reward.")
@click.option("--reward", "-r", default="tiny-reward", show_default=True, help="Chooses, with --best-of.")
@click.option("--guide", "weights", metavar="NAME=WEIGHT,...",
              help="Follow the dimensions of a latent reward with these weights, such as VQ=1,MQ=0.5 (Flow-NRG).")
@click.option("--guide-from", type=click.Path(exists=True, path_type=Path),
              help="The run of `visalign guide train`, or its guide folder.")
@click.option("--guide-range", default="0.95:0.05", show_default=True, metavar="FIRST:LAST",
              help="The part of the noise range in which the guide is followed.")
@click.option("--guide-clip", default=1.0, show_default=True, type=ranged(Positive),
              help="Largest size of the guide's term, relative to the model's prediction.")
@click.option("--rewrite", "rewriter", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Rewrite prompts first, with a run of `visalign lm adapt` or its export folder.")
@click.option("--goal", metavar="best|SCORE",
              help="Ask a model that learnt with data.goals (its export as --lora, or as MODEL) for this score.")
@click.option("--negative-adapter", type=click.Path(exists=True, path_type=Path),
              help="A LoRA folder or file, or a run with data.swap, that guidance leads away from (Diffusion-NPO).")
@click.option("--negative-scale", type=ranged(Portion),
              help="How much of --lora the negative side is without (default 0: --negative-adapter on top of --lora; "
                   "1: on MODEL alone).")
@click.option("--user", metavar="FILE",
              help="Sample for the user of these pairs (a table of prompt, chosen, rejected), with a run of "
                   "model.tuning user as --lora.")
@click.option("--user-scale", type=ranged(Portion),
              help="How much of the user's part is added (default 1; 0: MODEL itself).")
@ray_options
def generate(model: str, prompts: tuple[str, ...], out: str, lora: Path | None, samples_per_prompt: int,
             settings: tuple[str, ...], steps: int | None, guidance_scale: float | None, seed: int, precision: str,
             device: str, best_of: int, reward: str, weights: str | None, guide_from: Path | None, guide_range: str,
             guide_clip: float, video_format: str | None, rewriter: Path | None, goal: str | None,
             negative_adapter: Path | None, negative_scale: float | None, user: str | None, user_scale: float | None,
             **cluster) -> None:
    """Sample MODEL on PROMPTS (texts, or one @file with a prompt per line) into media files, a grid and samples.jsonl.

    \b
    visalign generate stabilityai/stable-diffusion-xl-base-1.0 "a lighthouse in fog" -o lighthouse
    visalign generate SDXL_FOLDER @prompts.txt --lora runs/sdxl-dpo/export --samples-per-prompt 8
    visalign generate SDXL_FOLDER @prompts.txt --lora runs/sdxl-ppd --user my_pairs.jsonl
    visalign generate SDXL_FOLDER @prompts.txt --engine ray --ray-address 10.0.0.1:6379 -o s3://bucket/samples
    """
    from visalign.config.load import model_of
    from visalign.generators.hardware.devices import pick_device

    options = {"lora": lora, "samples": samples_per_prompt, "steps": steps, "guidance_scale": guidance_scale,
               "seed": seed, "following": _following(weights, guide_from, guide_range, guide_clip),
               "video_format": video_format, "goal": goal}
    options |= _negative(negative_adapter, negative_scale) | _of_user(user, user_scale)
    loaded, ray = model_of(model, (f"precision={precision}", *settings)), ray_settings(slow=True, **cluster)
    if ray and rewriter:
        raise UserError("generate: --rewrite works on one machine; leave out --engine ray")
    if ray and best_of > 1:
        raise UserError("generate: --best-of chooses on one machine; leave out --engine ray, or score what it draws")
    if ray:
        from visalign.jobs.generate_on_ray import generate_on_ray

        click.echo(f"{generate_on_ray(loaded, list(prompts), out, ray, device=device, **options)} files in {out}")
        return
    device, folder = str(pick_device(device)), Path(out)
    if rewriter:
        if best_of > 1:
            raise UserError("generate: --rewrite and --best-of are two ways to better samples; give one of them")
        _generate_rewritten(loaded, list(prompts), folder, rewriter, device, options)
        return
    if best_of > 1:
        from visalign.sampling.best_of import best_of_to_folder

        written = best_of_to_folder(loaded, list(prompts), folder, best_of=best_of, reward=reward, device=device,
                                    **options)
    else:
        from visalign.sampling.folder import generate_to_folder

        written = generate_to_folder(loaded, list(prompts), folder, device=device, **options)
    click.echo(f"{written} files in {folder}, overview in {folder / 'grid.png'}")


def _generate_rewritten(model, prompts: list[str], folder: Path, rewriter: Path, device: str, options: dict) -> None:
    """Sample what the rewriter makes of the prompts, and print both."""
    from visalign.language.generate_rewritten import generate_rewritten
    from visalign.language.rewriting import fallbacks_in_words

    written, rewritten = generate_rewritten(model, prompts, folder, rewriter, device=device, **options)
    for each in rewritten:
        click.echo(f"{each.prompt}\n  {each.used}" + (f"  (fell back: {each.refused})" if each.refused else ""))
    click.echo(fallbacks_in_words(rewritten))
    click.echo(f"{written} files in {folder}, overview in {folder / 'grid.png'}")


def _negative(adapter: Path | None, less: float | None) -> dict:
    """The option of `drawing_of` where there is a negative adapter. Raises UserError when only half of it is given."""
    if adapter is None:
        if less is not None:
            raise UserError(f"--negative-scale {less:g} says what --negative-adapter is put on, and there is none; "
                            "give both")
        return {}
    from visalign.sampling.folder import Negative

    return {"negative": Negative(adapter, less or 0.0)}


def _of_user(file: str | None, scale: float | None) -> dict:
    """The option of `drawing_of` where samples are for a user. Raises UserError when only half of it is given."""
    if file is None:
        if scale is not None:
            raise UserError(f"--user-scale {scale:g} says how much of --user is added, and there is none; give both")
        return {}
    from visalign.sampling.users import ForUser

    return {"user": ForUser(file, 1.0 if scale is None else scale)}


def _following(weights: str | None, source: Path | None, span: str, most: float):
    """The guide to follow, or None. Raises UserError when only half of it is given."""
    from visalign.guidance import Guiding
    from visalign.sampling.folder import Following

    if not weights and source is None:
        return None
    if not weights or source is None:
        raise UserError("guide: --guide NAME=WEIGHT,... and --guide-from RUN belong together")
    first, _, last = span.partition(":")
    try:
        bounds = float(first), float(last)
    except ValueError:
        raise UserError(f"guide range {span}: expected two numbers separated by a colon, such as 0.95:0.05") from None
    following = Following(source, Guiding(parse_guide_weights(weights), *bounds, most))
    following.check()
    return following


def parse_guide_weights(text: str) -> dict[str, float]:
    """`VQ=1,MQ=0.5` as a mapping. Raises UserError naming the part that is not one."""
    weights = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip() or not math.isfinite(weights[name.strip()]):
            raise UserError(f"guide {part!r}: NAME=WEIGHT is expected, such as VQ=1")
    return weights


@click.group(cls=Verbs)
def guide() -> None:
    """Train a reward on noisy latents that `generate --guide` follows, and see how far it can be followed."""


@guide.command("train")
@recipe_arguments
@resume_options
def guide_train(config: str, overrides: tuple[str, ...], resume: bool, auto_resume: bool) -> None:
    """Train a latent reward as CONFIG says; KEY=VALUE pairs override it.

    \b
    visalign guide train guide/wan21 data.path=videogen-rewardbench.csv
    """
    from visalign.config import GuideConfig
    from visalign.jobs.guide_train import train_guide

    settings = read_recipe(config, overrides, GuideConfig)
    folder = train_guide(settings, resumes(settings, resume, auto_resume))
    click.echo(f"the guide is in {folder / 'guide'}, its accuracy by noise level in {folder / 'accuracy.json'}")


@guide.command("sweep")
@click.argument("model")
@click.argument("guide_from", type=click.Path(exists=True, path_type=Path))
@click.option("--dimension", help="Which dimension to follow; the guide's first by default.")
@click.option("--weights", default="0,1,2,4,8,16", show_default=True, help="Weights to try; 0 is unguided.")
@click.option("--prompts", required=True, help="A file, one prompt per line, or videos:held_out, emoji:held_out ...")
@click.option("--max-prompts", default=32, show_default=True, type=ranged(Limit))
@samples_option(4)
@set_option
@sampling_options()
@click.option("--guide-range", default="0.95:0.05", show_default=True, metavar="FIRST:LAST")
@click.option("--guide-clip", default=1.0, show_default=True, type=ranged(Positive))
@click.option("--rewards", "-r", default="tiny-reward,tiny-clip", show_default=True, type=Names(),
              help="As for `score`.")
@click.option("--features", default="tiny-clip", show_default=True, help="open_clip model that measures diversity.")
@out_option("guide-sweep")
@device_option
def guide_sweep(model: str, guide_from: Path, dimension: str | None, weights: str, prompts: str, max_prompts: int,
                samples_per_prompt: int, settings: tuple[str, ...], steps: int | None, guidance_scale: float | None,
                guide_range: str, guide_clip: float, rewards: tuple[str, ...], features: str, out: Path,
                device: str) -> None:
    """Follow a latent reward with rising weight: rewards, diversity, and where it breaks."""
    from visalign.config.load import model_of
    from visalign.data.prompts import read_prompts
    from visalign.generators.files.locating import sampling_for
    from visalign.generators.hardware.devices import pick_device
    from visalign.guidance.network import find_guide, read_head
    from visalign.jobs.guide_sweep import Sweep, run_sweep

    tried, loaded = read_numbers(weights, "sweep: --weights"), model_of(model, settings)
    dimension = dimension or read_head(find_guide(guide_from)).dimensions[0]
    sampled = sampling_for(loaded, steps, guidance_scale)
    plan = Sweep(dimension, tried, read_prompts(prompts, max_prompts), samples_per_prompt, sampled.steps,
                 sampled.guidance_scale,
                 lambda weight: _following(f"{dimension}={weight}", guide_from, guide_range, guide_clip))
    report = run_sweep(loaded, plan, list(rewards), features, out, str(pick_device(device)))
    for line in report.lines:
        click.echo(line)
    click.echo(f"report {report.page}")
