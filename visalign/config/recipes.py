"""The recipes that come with visalign: `configs/` of a checkout, the package `visalign.recipes` of an installation."""

import difflib
import importlib.util
import itertools
import re
from pathlib import Path

from visalign.errors import UserError


def recipe_folder() -> Path:
    """Where the shipped recipes lie."""
    spec = importlib.util.find_spec("visalign.recipes")
    return Path(list(spec.submodule_search_locations)[0]) if spec else Path(__file__).resolve().parents[2] / "configs"


def recipes() -> dict[str, Path]:
    """The file of every shipped recipe by its name, such as sdxl_dpo or online/sdxl_ddpo.

    Combinations of rewards (rewards/NAME.yaml) and files for accelerate and clusters, which lie beside them, are none.
    """
    folder = recipe_folder()
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))
            if file.parent.name not in ("rewards", "accelerate", "clusters")}


def find_recipe(text: str | Path) -> Path:
    """The file of a recipe: a path, or the name of a shipped one, whole or its last part.

    Raises UserError when there is neither, or several have the name.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return path
    known, name = recipes(), str(text).removeprefix("configs/").removesuffix(".yaml")
    if name in known:
        return known[name]
    ending = [each for each in known if each.rpartition("/")[2] == name]
    if len(ending) > 1:
        raise UserError(f"recipe {text}: {len(ending)} shipped recipes have that name; write {' or '.join(ending)}")
    if not ending and path.exists():
        return path  # whoever reads it says why a folder is no recipe
    if not ending:
        near = difflib.get_close_matches(name, [*known, *(each.rpartition("/")[2] for each in known)], n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UserError(f"config {text}: there is no such file, and no shipped recipe has that name{hint}; `visalign "
                        "list recipes` names them")
    return known[ending[0]]


def recipe_summary(file: Path) -> str:
    """What a recipe's header begins with: up to its first full stop, bracket or colon."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    return re.split(r"\.( |$)| \(|: ", " ".join(line.removeprefix("#").strip() for line in lines))[0]
