"""`visalign reward fit-weights`: rewards weighed by the prompt."""

from pathlib import Path

import click

from visalign.cli.options import Names, device_option, out_option, ranged
from visalign.cli.verbs import Verb
from visalign.validation.ranges import Seed, Weight


@click.command("fit-weights", cls=Verb)
@click.argument("data")
@click.option("--rewards", "-r", required=True, type=Names(), help="As for `score`; each dimension counts as one.")
@click.option("--prompts-by", default="tiny-clip", show_default=True, help="The CLIP model that reads the prompts.")
@out_option("prompt-weights.safetensors")
@click.option("--dimension", default="alignment", show_default=True,
              help="The labels to follow; of a preference set its pairs.")
@click.option("--penalty", default=1e-3, show_default=True, type=ranged(Weight),
              help="Of weights that differ by prompt.")
@click.option("--media-root", type=click.Path(), help="Folder that relative paths start from.")
@click.option("--seed", default=0, show_default=True, type=ranged(Seed), help="Of which prompts are held out.")
@device_option
def fit_weights(data: str, rewards: tuple[str, ...], prompts_by: str, out: Path, dimension: str, penalty: float,
                media_root: str | None, seed: int, device: str) -> None:
    """Learn from the pairs of DATA how much each of several rewards counts for which prompts.

    \b
    visalign reward fit-weights pairs.parquet -r ocr,pickscore,aesthetic --prompts-by clip:ViT-L-14/openai
    """
    from visalign.generators.hardware.devices import pick_device
    from visalign.jobs.reward_weights import learn_prompt_weights, weights_lines

    found = learn_prompt_weights(data, list(rewards), prompts_by, out, dimension=dimension, penalty=penalty,
                                 media_root=media_root, seed=seed, device=str(pick_device(device)))
    click.echo("\n".join([*weights_lines(found), f"use it as {{kind: prompt_weighted, of: [{', '.join(rewards)}], "
                                                f"file: {out}, prompts_by: {prompts_by}}}"]))
