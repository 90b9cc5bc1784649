"""`visalign reward distance`: what several rewards of the same samples have in common."""

from pathlib import Path

import click

from visalign.cli.options import Names, device_option, out_option, ranged
from visalign.cli.reading import how_to_read, reading_options
from visalign.cli.verbs import Verb
from visalign.validation.ranges import Portion, Seed


@click.command(cls=Verb)
@click.argument("source")
@click.option("--rewards", "-r", required=True, type=Names(), help="As for `score`; each dimension counts as one.")
@out_option("reward-distance")
@reading_options
@click.option("--max-failures", default=0.05, show_default=True, type=ranged(Portion),
              help="Stop when a reward cannot score more than this share.")
@click.option("--seed", default=0, show_default=True, type=ranged(Seed), help="Of the intervals.")
@device_option
def distance(source: str, rewards: tuple[str, ...], out: Path, max_failures: float, seed: int, device: str,
             prompts_from: str, prompts_from_names: bool, media_root: str | None) -> None:
    """How far rewards are from each other on SOURCE, samples of the same prompts: 0 alike, 0.71 unrelated, 1 opposite.

    \b
    visalign reward distance base-samples -r pickscore,hpsv2,imagereward,aesthetic
    """
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.reward_distance import distance_lines, measure_reward_distances

    done = measure_reward_distances(source, list(rewards), out, device=str(pick_device(device)), seed=seed,
                                   max_failures=max_failures,
                                   **how_to_read(prompts_from, prompts_from_names, media_root))
    found = done.distances
    left = f", {found.left_out} others left out" if found.left_out else ""
    silent = [f"{name} scored none of them" for name in done.silent]
    click.echo("\n".join([*distance_lines(found), *silent,
                          f"on {found.samples} samples of {found.prompts} prompts{left}",
                          f"report in {done.page}, every number in {done.numbers}"]))
