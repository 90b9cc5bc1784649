"""Source images of a prompt, carried in its text: `words@@image file`, or `words@@first file@@second file`.

One string goes wherever a prompt goes (lists, caches, sample folders), and the model that needs the images reads them.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visalign.errors import UserError
from visalign.media.image_files import read_image

SEPARATOR = "@@"


def split_prompt(prompt: str) -> tuple[str, tuple[Path, ...]]:
    """Words and image files of a prompt; no files where it names none."""
    words, *files = prompt.split(SEPARATOR)
    return words.strip(), tuple(Path(file.strip()).expanduser() for file in files)


def words_of(prompt: str) -> str:
    """The prompt without its image files."""
    return split_prompt(prompt)[0]


def with_sources(words: str, files: Iterable[Path | str]) -> str:
    """The prompt that `split_prompt` takes apart again. Raises UserError where a part holds the separator itself."""
    parts = [words, *map(str, files)]
    for part in parts if len(parts) > 1 else []:
        if SEPARATOR in part:
            raise UserError(f"'{part}' holds {SEPARATOR}, which stands between a prompt and its source images; write "
                            "it otherwise")
    return SEPARATOR.join(parts)


def sources_key(files: Iterable[Path]) -> str:
    """What the images are, whatever they are called: SHA-256 of each file's bytes, in order."""
    return SEPARATOR.join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def source_images_of(prompt: str, where: str = "prompt") -> list[Image.Image]:
    """The source images of a prompt as RGB, in order. Raises UserError as `read_image` does."""
    return [read_image(file, f"{where} '{words_of(prompt)}'") for file in split_prompt(prompt)[1]]


@dataclass(frozen=True)
class SourceCount:
    """How many source images the prompts of a model hold, and what such a use is called: `image to video`."""

    use: str
    least: int = 1
    most: int = 1

    @property
    def form(self) -> str:
        """How such a prompt is written."""
        several = "" if self.most == 1 else f", at most {self.most} files"
        return f"{self.use} takes 'words{SEPARATOR}image file'{several}"

    def check(self, prompts: Iterable[str], where: str) -> None:
        """Raises UserError for a prompt with too few or too many images, or one that is missing or unreadable."""
        of_file: dict[Path, str] = {}
        for prompt in prompts:
            files = split_prompt(prompt)[1]
            missing = next((file for file in files if not file.is_file()), None)
            if not self.least <= len(files) <= self.most:
                what = f"names {len(files)} images" if files else "names no image"
                raise UserError(f"{where} '{prompt}': {what}; {self.form}")
            if missing is not None:
                raise UserError(f"{where} '{prompt}': names {missing}, which does not exist; {self.form}")
            of_file |= dict.fromkeys(files, prompt)
        with ThreadPoolExecutor() as pool:  # decoders run beside each other
            for _ in pool.map(_read, of_file, (f"{where} '{words_of(prompt)}'" for prompt in of_file.values())):
                pass


def _read(file: Path, where: str) -> None:
    read_image(file, where)
