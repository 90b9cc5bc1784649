"""The recommended recipe with the user's data and model in it, its comments as they are."""

from itertools import count
from pathlib import Path
from typing import Any

from visalign.config.fitting import SIBLINGS
from visalign.config.load import load_config
from visalign.config.recipes import recipes
from visalign.errors import UserError
from visalign.jobs.advise.choosing import Advised, one_prompt
from visalign.jobs.advise.look import Look
from visalign.jobs.recipe_text import usual_beta
from visalign.storage.files import write_atomically
from visalign.storage.text_files import read_text
from visalign.storage.yaml_edits import with_settings

USUAL_NAME = Path("advised.yaml")
_MADE_FOR = ("resolution", "frames", "prompt_tokens")
"""Settings of a recipe's own model that another may not have."""
_OF_OTHER_DATA = ("feedback", "sources", "format", "split", "dimensions", "max_pairs", "path")
"""Settings of a recipe that speak of the data it was written for."""


def file_to_write(given: Path | None) -> Path:
    """The file to write. Raises UserError where a given one is there already."""
    if given is None:
        return next(file for file in (USUAL_NAME if number == 1 else USUAL_NAME.with_stem(f"{USUAL_NAME.stem}-{number}")
                                      for number in count(1)) if not file.exists())
    if given.exists():
        raise UserError(f"recipe {given}: is there already, and nothing is overwritten; name another file with --out")
    return given


def write_advised(choice: Advised, look: Look, file: Path, named: bool) -> None:
    """Write a recipe that passes its dry run. named: whether the user named the model."""
    changes = changes_for(choice, look, file.stem, named)
    text = with_settings(read_text(recipes()[choice.recipe.name], "recipe"), changes)
    put_in = ", ".join(key for key, value in changes.items() if value is not None)
    head = (f"# The recipe {choice.recipe.name} for {' '.join(look.source.split())}; written by `visalign advise`,\n"
            f"# which set {put_in}.\n# Start it with: {choice.recipe.command} {file}\n#\n")
    write_atomically(file, (head + text).encode())
    load_config(file, kind=choice.recipe.settings)


def changes_for(choice: Advised, look: Look, name: str, named: bool) -> dict[str, Any]:
    """What differs from the shipped recipe, by dotted key; None for what is taken out."""
    recipe, rule = choice.recipe, choice.rule
    place = recipe.prompts if rule.prompted else recipe.place
    changes: dict[str, Any] = {}
    if place == "data.path":
        changes |= {f"data.{key}": None for key in _OF_OTHER_DATA}
        changes |= {"data.score_with": None} if look.rewards else {}
        changes |= {"data.dimensions": dict.fromkeys(look.dimensions, 1.0)} if look.dimensions and look.pairs and (
            recipe.settings is None) else {}
    changes |= {place: look.source} | _model(choice, named) | _measured(look, recipe.settings is None and (
        place == "data.path"))
    changes |= {"output.folder": f"runs/{name}"} | rule.settings(look)
    return changes | ({"data.path": None} if "data.sources" in changes and changes["data.sources"] else {})


def _model(choice: Advised, named: bool) -> dict[str, Any]:
    recipe, model, kind = choice.recipe, choice.model, choice.recipe.kind
    changes: dict[str, Any] = {}
    if kind is None or not named:
        return changes
    if recipe.process not in ("any", model.kind.process):
        sibling = SIBLINGS[recipe.objective]
        changes |= {"objective.name": sibling, "objective.beta": usual_beta(model.kind.process, model.kind.small)}
    section = recipe.model_key.rpartition(".")[0]
    if (kind.pipeline, kind.small) != (model.kind.pipeline, model.kind.small):
        changes |= {f"{section}.{key}": None for key in _MADE_FOR}
    return changes | {recipe.model_key: model.source} | {f"{section}.base": model.base}


def _measured(look: Look, generates: bool) -> dict[str, Any]:
    """Prompts to look at, where none can be held out."""
    if not (generates and one_prompt(look)):
        return {}
    return {"data.holdout": 0, "eval.prompts": [f"{look.asked} on a beach", f"{look.asked} in the snow"]}
