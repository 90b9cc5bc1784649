"""`visalign init`: three questions and a recipe."""

from pathlib import Path

import click

from visalign.cli.verbs import Verb


def _card() -> float:
    """GiB of the first GPU, 0 without one."""
    import torch

    return round(torch.cuda.get_device_properties(0).total_memory / 2**30) if torch.cuda.is_available() else 0


@click.command(cls=Verb)
@click.argument("recipe", type=click.Path(path_type=Path), default=Path("recipe.yaml"))
@click.option("--checkpoint", prompt="Which checkpoint (a diffusers folder, a .safetensors file, a downloaded hub id, "
              "or tiny-sd3 to try)", help="A diffusers folder, .safetensors file, downloaded hub id or embedded model.")
@click.option("--learn-from", prompt="Learn from what (a file or folder of preference pairs or captioned images, or a "
              "reward such as pickscore)", help="Data, or the name of a reward.")
@click.option("--memory", type=click.FloatRange(0, 4096), default=_card, prompt="Memory of your card in GiB (0: none)",
              help="GiB of one card; 0 without a GPU.")
@click.option("--prompts", help="Prompts to sample, with a reward: a file, one per line, or emoji:train.")
@click.option("--base", help="The diffusers folder that gives a single file its configuration.")
def init(recipe: Path, checkpoint: str, learn_from: str, memory: float, prompts: str | None, base: str | None) -> None:
    """Ask three questions and write a commented RECIPE that is ready to train.

    Answers given as options are not asked for.

    \b
    visalign init
    visalign init mine.yaml --checkpoint SDXL_FOLDER --learn-from pairs.jsonl --memory 24
    """
    from visalign.generators.files.embedded import EMBEDDED_PROMPTS
    from visalign.jobs.new_recipe import Answers, is_reward, local_source, write_recipe

    local_source(checkpoint)  # before another question is asked
    if prompts is None and is_reward(learn_from):
        own = EMBEDDED_PROMPTS.get(checkpoint)
        prompts = f"{own}:train" if own else click.prompt(
            "A file of prompts to sample, one per line")
    plan = write_recipe(Answers(checkpoint, learn_from, memory, prompts, base), recipe)
    click.echo(f"{recipe}: {plan.family}, {plan.at_once} samples at once, LoRA of rank {plan.rank}\n\nnext:\n"
               f"  visalign train {recipe} --dry-run\n  visalign train {recipe}")
