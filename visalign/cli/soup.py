"""`visalign soup`."""

from pathlib import Path

import click

from visalign.cli.options import out_option, ranged
from visalign.cli.verbs import Verb
from visalign.validation.ranges import LoraRank


@click.command(cls=Verb)
@click.argument("runs", nargs=-1, required=True, metavar="RUN[=WEIGHT] ...")
@out_option("soup")
@click.option("--rank", type=ranged(LoraRank),
              help="Reduce the LoRA to this rank (default: the sum of the runs' ranks, which loses nothing).")
def soup(runs: tuple[str, ...], out: Path, rank: int | None) -> None:
    """Average finished runs of one base, of LoRAs or of all weights, into a folder like a run's export.

    What the weights lack to 1 is the base's, so that RUN=0.6 lies between a run and its base; without weights the runs
    count alike. No model is trained or sampled.

    \b
    visalign soup runs/sdxl-dpo=0.6 --out dpo-at-0.6        less reward, more diversity
    visalign soup runs/pickscore runs/aesthetic --out both  a model between two rewards
    """
    from visalign.jobs.soup import make_soup

    for line in make_soup(runs, out, rank).lines():
        click.echo(line)
