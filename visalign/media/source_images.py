"""Source images of a prompt, carried in its text: `words@@image file`, or `words@@first file@@second file`.

One string goes wherever a prompt goes (lists, caches, settings, sample folders), and the model that needs the images
reads them. What else a row of data says of an edit, for rewards, comes last, as JSON: `words@@file@@{"mask": ...}`.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from visalign.errors import UserError
from visalign.media.image_files import read_image
from visalign.media.samples import Media, Sample

SEPARATOR = "@@"
EDIT_NOTES = ("requirement", "source_caption", "target_caption", "mask")
"""What may be said of an edit: what to look for in it; captions of the source and of the wanted result; the file of an
image that is white where the edit belongs."""


def split_prompt(prompt: str) -> tuple[str, tuple[Path, ...]]:
    """Words and image files of a prompt; no files where it names none."""
    words, *parts = prompt.split(SEPARATOR)
    return words.strip(), tuple(_path(part.strip()) for part in parts if not _are_notes(part))


def words_of(prompt: str) -> str:
    """The prompt without its image files."""
    return split_prompt(prompt)[0]


def put_into(template: str | None, prompt: str) -> str:
    """The prompt with its words in the place of {prompt} in a template, before the same images; as it is without one.
    """
    if template is None:
        return prompt
    if not is_edit(prompt):
        return template.replace("{prompt}", prompt)
    words, mark, rest = prompt.partition(SEPARATOR)
    return template.replace("{prompt}", words.strip()) + mark + rest


def notes_of(prompt: str) -> dict[str, str]:
    """What a prompt says beside its words and images, by EDIT_NOTES. Raises UserError where it is not readable."""
    *_, last = prompt.split(SEPARATOR)
    if last == prompt or not _are_notes(last):
        return {}
    try:
        return {str(name): str(value) for name, value in json.loads(last).items()}
    except ValueError as error:
        raise UserError(f"prompt '{prompt}': what follows the last {SEPARATOR} is not readable as JSON ({error})"
                        ) from None


def _path(part: str) -> Path:
    try:
        return Path(part).expanduser()
    except RuntimeError:  # ~ of a user who does not exist: words, or a file that is not there
        return Path(part)


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):  # too long for a name, such as words between two marks
        return False


def _are_notes(part: str) -> bool:
    return part.lstrip().startswith("{")


def with_sources(words: str, files: Iterable[Path | str], notes: Mapping[str, str] | None = None) -> str:
    """The prompt that `split_prompt` takes apart again; the words alone where there are no files.

    Raises UserError where a part holds the separator itself.
    """
    parts = [words, *map(str, files)]
    if len(parts) == 1:
        return words
    for part in parts:
        if SEPARATOR in part:
            raise UserError(f"'{part}' holds {SEPARATOR}, which stands between a prompt and its source images; write "
                            "it otherwise")
    if notes:
        text = json.dumps(dict(sorted(notes.items())), ensure_ascii=False)
        parts.append(text.replace(SEPARATOR, "@\\u0040"))
    return SEPARATOR.join(parts)


def sources_key(files: Iterable[Path]) -> str:
    """What the images are, whatever they are called: SHA-256 of each file's bytes, in order. Raises OSError."""
    return SEPARATOR.join(_digest(file, *_stamp(file)) for file in files)


def content_of(prompt: str) -> str:
    """What makes a prompt that prompt wherever its files lie: its words and what its images hold.

    The prompt itself where it names no images, or some that are not there.
    """
    words, files = split_prompt(prompt)
    try:
        return f"{words}{SEPARATOR}{sources_key(files)}" if files else prompt
    except (OSError, ValueError):
        return prompt


def is_edit(prompt: str) -> bool:
    """Whether a prompt names source images, all of which are there."""
    files = split_prompt(prompt)[1]
    return bool(files) and all(map(_is_there, files))


def prompt_group(prompt: str) -> str:
    """As `content_of`, short enough to be read: what samples are grouped by, and models are matched on."""
    if not is_edit(prompt):
        return prompt
    return f"{words_of(prompt)}{SEPARATOR}{hashlib.sha256(content_of(prompt).encode()).hexdigest()[:12]}"


def parts_shown(prompt: str) -> tuple[str, tuple[Image.Image, ...]]:
    """The words of a prompt and its source images, as pages show them; the prompt itself where it names none that are
    there. Raises UserError for one that cannot be read."""
    return (words_of(prompt), source_images_of(prompt)) if is_edit(prompt) else (prompt, ())


def group_of(sample: Sample) -> str:
    """The group that a sample belongs to, as tables of scores name it."""
    return prompt_group(sample.source_prompt) if sample.sources else sample.prompt


def sheet_row(samples: list[Sample]) -> tuple[str, list[Media]]:
    """A row of a contact sheet: samples of one prompt, after its source images."""
    first = samples[0]
    label = first.prompt if first.sources else first.source_prompt
    return label, [*first.sources, *(sample.media for sample in samples)]


def source_images_of(prompt: str, where: str = "prompt") -> tuple[Image.Image, ...]:
    """The source images of a prompt as RGB, in order. Raises UserError as `read_image` does."""
    words, files = split_prompt(prompt)
    return tuple(read_source(file, f"{where} '{words}'") for file in files)


def read_source(file: Path, where: str) -> Image.Image:
    """A source image as RGB; those read last are kept. Raises UserError as `read_image` does."""
    try:
        stamp = _stamp(file)
    except OSError:
        return read_image(file, where)
    return _read(file, where, *stamp)


def sample_of(prompt: str, text: str, media: Media, seed: int | None = None) -> Sample:
    """What rewards see of a medium made for `prompt`, whose words are `text`, with its source images where it has some.
    """
    known = {"source_prompt": prompt}
    if text == prompt:
        return Sample(text, media, seed, known)
    return Sample(text, media, seed, known | notes_of(prompt), source_images_of(prompt))


def _stamp(file: Path) -> tuple[int, int]:
    state = file.stat()
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(65536)
def _digest(file: Path, size: int, changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@functools.lru_cache(8)
def _read(file: Path, where: str, size: int, changed: int) -> Image.Image:
    return read_image(file, where)


@dataclass(frozen=True)
class SourceCount:
    """How many source images the prompts of a model hold, and what such a use is called: `image to video`."""

    use: str
    least: int = 1
    most: int = 1

    @property
    def form(self) -> str:
        """How such a prompt is written."""
        count = "one image" if self.most == 1 else f"at most {self.most} images"
        return f"{self.use} takes 'words{SEPARATOR}image file', or a row with a column source, of {count}"

    def check(self, prompts: Iterable[str], where: str) -> None:
        """Raises UserError for a prompt with too few or too many images, or one that is missing or unreadable."""
        of_file: dict[Path, str] = {}
        for prompt in prompts:
            files = split_prompt(prompt)[1]
            missing = next((file for file in files if not _is_there(file)), None)
            if not self.least <= len(files) <= self.most:
                what = f"names {len(files)} images" if files else "names no image"
                raise UserError(f"{where} '{prompt}': {what}; {self.form}")
            if missing is not None:
                raise UserError(f"{where} '{prompt}': names {missing}, which does not exist; {self.form}")
            of_file |= dict.fromkeys(files, prompt)
        places = (f"{where} '{words_of(prompt)}'" for prompt in of_file.values())
        with ThreadPoolExecutor() as pool:  # decoders run beside each other
            for _ in tqdm(pool.map(read_image, of_file, places), desc="checking source images", total=len(of_file),
                          unit="image", leave=False, delay=2):
                pass
