"""`visalign push`."""

from pathlib import Path

import click

from visalign.cli.verbs import Verb


@click.command(cls=Verb)
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repository", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--license", "license_name", metavar="NAME", help="Licence in the card, such as apache-2.0.")
@click.option("--dry-run", is_flag=True, help="Print the files and the card; upload nothing.")
def push(run: Path, repository: str, private: bool, license_name: str | None, dry_run: bool) -> None:
    """Upload what a finished RUN exported to the model hub, with a card of what it was measured to change.

    \b
    visalign push runs/sdxl-dpo me/sdxl-dpo --private --license openrail++
    """
    from visalign.jobs.push import prepare
    from visalign.jobs.push import push as upload

    ready = prepare(run, repository, license_name)
    click.echo(ready.described() if dry_run else upload(ready, private))
