"""`visalign reward card`: what a reward knows and what it does not, on one page."""

from pathlib import Path

import click

from visalign.cli.options import Names, device_option, out_option, ranged
from visalign.cli.verbs import Verb
from visalign.validation.ranges import FewOrNone


@click.command("card", cls=Verb)
@click.argument("reward_spec", metavar="REWARD")
@click.argument("data_path", metavar="DATA")
@click.option("--dimensions", default="alignment,quality,aesthetics,motion", show_default=True, type=Names(),
              help="Labelled columns to look for.")
@click.option("--against", default="", type=Names(may_be_none=True),
              help="Other rewards, to say how far it is from them.")
@click.option("--check", metavar="REWARD", help="Of attacks: where it changes its mind as well, the image has.")
@click.option("--attacked", default=32, show_default=True, type=ranged(FewOrNone), help="Pairs to attack; 0: none.")
@out_option(None, "Default: card/ in the reward's own folder, else reward-card.")
@click.option("--media-root", type=click.Path(), help="Folder that relative paths start from.")
@device_option
def card_verb(reward_spec: str, data_path: str, dimensions: tuple[str, ...], against: tuple[str, ...],
              check: str | None, attacked: int, out: Path | None, media_root: str | None, device: str) -> None:
    """What REWARD knows and what it does not, by the annotations in DATA: one page, and a sentence.

    \b
    visalign reward card runs/reward held_out.parquet --against tiny-clip
    """
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.reward_card import card_folder, make_card

    out = out or card_folder(reward_spec)
    card = make_card(reward_spec, data_path, out, dimensions, against=against, check=check, attacked=attacked,
                     media_root=media_root, device=str(pick_device(device)))
    click.echo("\n".join([card.sentence, *(f"not measured: {each}" for each in card.unknown),
                          f"report in {out / 'report.html'}, every number in {out / 'card.json'}"]))
