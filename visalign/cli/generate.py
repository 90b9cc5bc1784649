"""`visalign generate`, and `visalign guide`: the latent rewards it can follow."""

import math
from pathlib import Path

import click

from visalign.cli.options import Names, Overridable, ranged, read_recipe
from visalign.errors import UserError
from visalign.validation.ranges import Few, GuidanceScale, Limit, Positive, SamplingSteps, Seed


@click.command()
@click.argument("model")
@click.argument("prompts", nargs=-1, required=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("generated"), show_default=True)
@click.option("--lora", type=click.Path(exists=True, path_type=Path), help="A LoRA folder or file to load first.")
@click.option("--samples", default=4, show_default=True, type=ranged(Few), help="Of each prompt.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="A setting of the model, such as frames=33 or resolution=[480,832]; may be repeated.")
@click.option("--steps", default=28, show_default=True, type=ranged(SamplingSteps))
@click.option("--guidance-scale", default=4.5, show_default=True, type=ranged(GuidanceScale))
@click.option("--seed", default=0, show_default=True, type=ranged(Seed))
@click.option("--precision", default="auto", type=click.Choice(["auto", "fp32", "bf16", "fp16"]))
@click.option("--video-format", type=click.Choice(["mp4", "webm", "mkv", "gif", "frames"]),
              help="How videos are written (default: mp4; mkv and frames are lossless).")
@click.option("--best-of", default=1, show_default=True, type=ranged(Few),
              help="Draw this many candidates of each image and keep the one --reward likes best.")
@click.option("--reward", "-r", default="tiny-reward", show_default=True, help="What chooses, with --best-of.")
@click.option("--guide", "weights", metavar="NAME=WEIGHT,...",
              help="Follow the dimensions of a latent reward with these weights, such as VQ=1,MQ=0.5 (Flow-NRG).")
@click.option("--guide-from", type=click.Path(exists=True, path_type=Path),
              help="The run of `visalign guide train`, or its guide folder.")
@click.option("--guide-range", default="0.95:0.05", show_default=True, metavar="FIRST:LAST",
              help="The part of the noise range in which the guide is followed.")
@click.option("--guide-clip", default=1.0, show_default=True, type=ranged(Positive),
              help="Most that the guide adds, relative to the model.")
def generate(model: str, prompts: tuple[str, ...], output: Path, lora: Path | None, samples: int,
             settings: tuple[str, ...], steps: int, guidance_scale: float, seed: int, precision: str, best_of: int,
             reward: str, weights: str | None, guide_from: Path | None, guide_range: str, guide_clip: float,
             video_format: str | None) -> None:
    """Sample MODEL on PROMPTS (texts, or one @file with a prompt a line) into media files, a grid and samples.jsonl."""
    from visalign.config.load import model_of

    options = {"lora": lora, "samples": samples, "steps": steps, "guidance_scale": guidance_scale, "seed": seed,
               "following": _following(weights, guide_from, guide_range, guide_clip), "video_format": video_format}
    model = model_of(model, (f"precision={precision}", *settings))
    if best_of > 1:
        from visalign.generators.loading import pick_device
        from visalign.sampling.best_of import best_of_to_folder

        written = best_of_to_folder(model, list(prompts), output, best_of=best_of, reward=reward,
                                    device=str(pick_device()), **options)
    else:
        from visalign.sampling.folder import generate_to_folder

        written = generate_to_folder(model, list(prompts), output, **options)
    click.echo(f"{written} files in {output}, overview in {output / 'grid.png'}")


def _following(weights: str | None, source: Path | None, span: str, most: float):
    """The guide to follow, or None. Raises UserError when only half of it is said."""
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
        raise UserError(f"guide range {span}: two numbers with a colon are expected, such as 0.95:0.05") from None
    following = Following(source, Guiding(parse_guide_weights(weights), *bounds, most))
    following.check()
    return following


def parse_guide_weights(text: str) -> dict[str, float]:
    """`VQ=1,MQ=0.5` as a mapping. Raises UserError naming the part that is none."""
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


@click.group()
def guide() -> None:
    """Train a reward on noisy latents that `generate --guide` follows, and see how far it can be followed."""


@guide.command("train", cls=Overridable)
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--resume", is_flag=True, help="Continue the run in output.folder from its last checkpoint.")
def guide_train(config: Path, overrides: tuple[str, ...], resume: bool) -> None:
    """Train a latent reward as CONFIG says; KEY=VALUE pairs override it."""
    from visalign.config import GuideConfig
    from visalign.jobs.guide_train import train_guide

    folder = train_guide(read_recipe(config, overrides, GuideConfig), resume)
    click.echo(f"the guide is in {folder / 'guide'}, its accuracy by noise level in {folder / 'accuracy.json'}")


@guide.command("sweep")
@click.argument("model")
@click.argument("guide_from", type=click.Path(exists=True, path_type=Path))
@click.option("--dimension", help="Which dimension to follow; the guide's first by default.")
@click.option("--weights", default="0,1,2,4,8,16", show_default=True, help="Weights to try; 0 is the model alone.")
@click.option("--prompts", required=True, help="A text file, one prompt a line, or videos:held_out, emoji:held_out ...")
@click.option("--max-prompts", default=32, show_default=True, type=ranged(Limit))
@click.option("--seeds", default=4, show_default=True, type=ranged(Few), help="Generations of a prompt.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As for `generate`.")
@click.option("--steps", default=20, show_default=True, type=ranged(SamplingSteps))
@click.option("--guidance-scale", default=3.0, show_default=True, type=ranged(GuidanceScale))
@click.option("--guide-range", default="0.95:0.05", show_default=True, metavar="FIRST:LAST")
@click.option("--guide-clip", default=1.0, show_default=True, type=ranged(Positive))
@click.option("--rewards", "-r", default="tiny-reward,tiny-clip", show_default=True, type=Names(),
              help="Judges, as for `score`.")
@click.option("--features", default="tiny-clip", show_default=True, help="open_clip model that measures diversity.")
@click.option("--out", "-o", type=click.Path(path_type=Path), default=Path("guide-sweep"), show_default=True)
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
def guide_sweep(model: str, guide_from: Path, dimension: str | None, weights: str, prompts: str, max_prompts: int,
                seeds: int, settings: tuple[str, ...], steps: int, guidance_scale: float, guide_range: str,
                guide_clip: float, rewards: tuple[str, ...], features: str, out: Path, device: str) -> None:
    """Follow a latent reward ever harder: what judges say, what becomes of diversity, and where it breaks."""
    from visalign.config.load import model_of
    from visalign.data.prompts import read_prompts
    from visalign.generators.loading import pick_device
    from visalign.guidance.network import find_guide, read_head
    from visalign.jobs.guide_sweep import Sweep, run_sweep

    try:
        tried = [float(weight) for weight in weights.split(",")]
    except ValueError:
        tried = [math.nan]
    if not all(map(math.isfinite, tried)):
        raise UserError(f"sweep: --weights {weights} must be numbers with commas, such as 0,1,2,4")
    dimension = dimension or read_head(find_guide(guide_from)).dimensions[0]
    plan = Sweep(dimension, tried, read_prompts(prompts, max_prompts), seeds, steps, guidance_scale,
                 lambda weight: _following(f"{dimension}={weight}", guide_from, guide_range, guide_clip))
    report = run_sweep(model_of(model, settings), plan, list(rewards), features, out,
                   str(pick_device(device)))
    for line in report.lines:
        click.echo(line)
    click.echo(f"report {report.page}")
