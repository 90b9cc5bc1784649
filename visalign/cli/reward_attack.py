"""`visalign reward attack`: how small a change leads a reward astray."""

from pathlib import Path

import click

from visalign.cli.options import device_option, out_option, ranged
from visalign.cli.verbs import Verb
from visalign.validation.ranges import Few, Limit, Positive, Seed


@click.command(cls=Verb)
@click.argument("reward")
@click.argument("data")
@out_option("reward-attack")
@click.option("--dimension", default="alignment", show_default=True,
              help="The labels to turn; of a preference set its pairs.")
@click.option("--model", help="Attack in the latents of this generator, not in pixels; the reward needs no gradient.")
@click.option("--check", metavar="REWARD", help="Another reward: where it changes its mind as well, the image has.")
@click.option("--eps", default=4.0, show_default=True, type=ranged(Positive), help="Of a channel, in 255ths.")
@click.option("--reach", default=0.05, show_default=True, type=ranged(Positive), help="Of latents, of their length.")
@click.option("--steps", default=20, show_default=True, type=ranged(Few))
@click.option("--max-pairs", default=64, show_default=True, type=ranged(Limit))
@click.option("--media-root", help="Folder that paths in DATA are relative to.")
@click.option("--seed", default=0, show_default=True, type=ranged(Seed), help="Of guessed slopes.")
@device_option
def attack(reward: str, data: str, out: Path, dimension: str, model: str | None, check: str | None, eps: float,
           reach: float, steps: int, max_pairs: int, media_root: str | None, seed: int, device: str) -> None:
    """Turn the order that REWARD gives the pairs of DATA, by changes too small to see.

    DATA is as for `reward eval`. The turned pairs, with their own labels, are written in its form, and are learnt from
    beside it with `reward train RECIPE model.source=REWARD "data.path=[DATA, OUT/pairs.parquet]"`.

    \b
    visalign reward attack tiny-reward reward-data/held_out --check tiny-clip
    visalign reward attack pickscore pairs.parquet --model stabilityai/stable-diffusion-3.5-medium
    """
    from visalign.config import ModelSettings
    from visalign.data.annotations import read_annotations
    from visalign.generators import load_generator, locate_model
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.reward_attack import Bounds, attack_lines, attack_reward, attackable

    place = str(pick_device(device))
    if model:
        locate_model(ModelSettings(source=model))
    known, _ = attackable(reward, dimension, bool(model), place)
    items = read_annotations(data, tuple(dict.fromkeys([dimension, *known.dimensions])), media_root)
    generator = load_generator(ModelSettings(source=model), place) if model else None
    found = attack_reward(reward, items, dimension, data, out, check=check, model=generator, most=max_pairs, seed=seed,
                          bounds=Bounds(eps / 255, reach, steps), device=place)
    click.echo("\n".join([*attack_lines(found, out), f"report in {out / 'report.html'}, every number in "
                                                     f"{out / 'attack.json'}"]))
