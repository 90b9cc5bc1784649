"""`visalign reward probe`: what a reward's features hold."""

from pathlib import Path

import click

from visalign.cli.options import Names, device_option, out_option, ranged
from visalign.cli.verbs import Verb
from visalign.validation.ranges import Seed, Within


@click.command("probe", cls=Verb)
@click.argument("reward_spec", metavar="REWARD")
@click.argument("data_path", metavar="DATA")
@click.option("--dimensions", default="alignment,quality,aesthetics,motion", show_default=True, type=Names(),
              help="Columns of labels to look for: words, or numbers.")
@click.option("--rules", default="", type=Names(may_be_none=True),
              help="Rewards, as for `score`, whose scores are labels as well: above and below their median.")
@click.option("--centres", type=click.Path(dir_okay=False, path_type=Path),
              help="Also write where labelled samples lie to this .safetensors file, for the reward `familiar`.")
@click.option("--share", default=0.95, show_default=True, type=ranged(Within),
              help="Of the labelled samples, how many count as near those centres.")
@out_option("reward-probe")
@click.option("--media-root", type=click.Path(), help="Folder that relative paths start from.")
@click.option("--seed", default=0, show_default=True, type=ranged(Seed), help="Of the folds and the shuffled labels.")
@device_option
def probe_verb(reward_spec: str, data_path: str, dimensions: tuple[str, ...], rules: tuple[str, ...],
               centres: Path | None, share: float, out: Path, media_root: str | None, seed: int, device: str) -> None:
    """Which labels of the samples in DATA a linear probe finds in the features of REWARD (MRMBench).

    DATA has a row for each sample: prompt, image (video, answer) and its labels.

    \b
    visalign reward probe runs/reward labelled.parquet --dimensions colour,object,size
    visalign reward probe tiny-clip samples/samples.jsonl --rules sharpness,exposure
    visalign reward probe runs/reward labelled.parquet --dimensions object --centres centres.safetensors
    """
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.reward_probe import probe_lines, probe_reward

    found = probe_reward(reward_spec, data_path, dimensions, out, rules=rules, media_root=media_root, seed=seed,
                         device=str(pick_device(device)), centres=centres, share=share)
    if centres:
        click.echo(f"{centres}: use it as {{kind: familiar, of: {reward_spec}, centres: {centres}}}")
    click.echo("\n".join([*probe_lines(found), f"of {found.features} features; report in {out / 'report.html'}, every "
                                               f"number in {out / 'probes.json'}"]))
