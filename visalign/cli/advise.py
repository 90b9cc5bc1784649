"""`visalign advise`: data and a model in, a recipe out."""

from pathlib import Path

import click

from visalign.cli.verbs import Verb


@click.command(cls=Verb)
@click.argument("data", required=False)
@click.option("--model", "-m", help="A diffusers folder, .safetensors file, downloaded hub id or embedded model; for "
                                    "text a language model.")
@click.option("--base", help="The diffusers folder that gives a single file its configuration.")
@click.option("--out", "-o", type=click.Path(path_type=Path, dir_okay=False), help="The recipe to write; "
                                                                                  "advised.yaml by default.")
@click.option("--take", metavar="METHOD", help="Write another of the possible recipes, by its method or name.")
@click.option("--all", "every", is_flag=True, help="List every shipped recipe with the data that lead to it.")
def advise(data: str | None, model: str | None, base: str | None, out: Path | None, take: str | None,
           every: bool) -> None:
    """Say which recipe fits DATA and a model, and write it ready to run.

    DATA is what data.path takes, or prompts: a file of them, one per line, or emoji:train. Rows are counted and nothing
    is decoded; of the model only its configuration is read.

    \b
    visalign advise pairs.jsonl --model my_sdxl --out mine.yaml
    visalign advise my_images
    visalign advise prompts.txt --model tiny-sd3 --take nft
    """
    if every:
        from visalign.jobs.advise.choosing import every_recipe

        click.echo(every_recipe())
        return
    if data is None:
        raise click.UsageError("name the data to learn from, or --all")
    from visalign.jobs.advise.choosing import advice_on, advice_text
    from visalign.jobs.advise.look import look_at
    from visalign.jobs.advise.models import see_model
    from visalign.jobs.advise.writing import file_to_write, write_advised
    from visalign.language.answer_sources import is_language_model

    file, look = file_to_write(out), look_at(data)
    seen = None if model is None else see_model(model, base, look.of_language or is_language_model(model))
    advice = advice_on(look, seen)
    choice = advice.take(take) if take else advice.best[0]
    write_advised(choice, look, file, seen is not None)
    click.echo(advice_text(advice, seen, choice))
    first = [f"  {choice.rule.first.format(source=data)}"] if choice.rule.first else []
    dry = [f"  {choice.recipe.command} {file} --dry-run"] if choice.recipe.looks_first else []
    click.echo("\n".join([f"\n{file}: written from {choice.recipe.name}", "", "next:", *first, *dry,
                          f"  {choice.recipe.command} {file}"]))
