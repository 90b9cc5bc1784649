"""`visalign reward fit-user`: a reward that knows its users, and one more."""

from pathlib import Path

import click

from visalign.cli.options import device_option, out_option
from visalign.cli.verbs import Verb


@click.command("fit-user", cls=Verb)
@click.argument("reward_run", metavar="RUN")
@click.argument("data_path", metavar="PAIRS")
@click.option("--name", help="Whose all pairs are; without it the column user says so of each.")
@out_option("reward-fitted")
@click.option("--media-root", type=click.Path(), help="Folder that relative paths start from.")
@device_option
def fit_user(reward_run: str, data_path: str, name: str | None, out: Path, media_root: str | None, device: str) -> None:
    """Tell a reward of users by a few of their PAIRS; nothing else changes.

    It was trained with model.ideal_points, by which they are fitted, or model.variational, by which they are read, or
    is a vlm_personal, which is shown them.

    \b
    visalign reward fit-user runs/reward-voters pairs.jsonl --name ann -o runs/reward-with-ann
    visalign reward fit-user configs/rewards/personal.yaml pairs.jsonl --name ann -o ann
    """
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.fit_user import fit_users

    done = fit_users(reward_run, data_path, out, name, media_root, str(pick_device(device)))
    for user, pairs in done.pairs.items():
        click.echo(f"{user}: fitted on {pairs} pairs")
    if done.before is not None:
        click.echo(f"of these nobody's reward orders {done.before:.0%} as their users do, their own "
                   f"{done.after:.0%}")
    click.echo(f"use it as {done.use}")
