"""Prompts with source images go to models that take some; another would read the files' names as words."""

from collections.abc import Iterable

from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.media.source_images import is_edit, split_prompt


def check_takes_sources(generator: Generator, prompts: Iterable[str], where: str) -> None:
    """Raise UserError for a prompt with source images where the generator takes them for words."""
    for prompt in prompts:
        words, files = split_prompt(prompt)
        if is_edit(prompt) and generator.text_of(prompt) == prompt:
            raise UserError(f"{where}: '{words}' comes with the source image {files[0]}, and this model "
                            f"({type(generator.pipeline).__name__}) takes none; name a model that edits images, or "
                            "leave the column of source images out")
