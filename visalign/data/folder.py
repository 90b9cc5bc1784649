"""Any folder of images and videos: which files are generations, and where their prompts are."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from visalign.config.sources import PromptsFrom
from visalign.data.entry import Entry, Generations, outside
from visalign.data.metadata import PromptFound, prompt_in_file, prompt_in_parameters
from visalign.errors import UserError
from visalign.media.kinds import BESIDE, NOT_READ, in_order, is_hidden, is_image_name, is_video_name
from visalign.media.video_files import FRAMES_FILE, SHEET_MARK
from visalign.storage.text_files import decode_text, normal_form, printable, read_text

SIDECARS = (".txt", ".caption")
_NAMED = 3
"""Files of a suffix that are named where they were left out."""


def folder_entries(folder: Path, prompts_from: PromptsFrom) -> Generations:
    """Every generation below a folder, in the order of their names, and notes on what was left out."""
    root = os.path.realpath(folder)
    files = [Path(top) / name for top, _, names in os.walk(folder) for name in names]
    videos = {file.parent for file in files if file.name == FRAMES_FILE}
    files = [file for file in files if not videos & {file.parent, *file.parents}
             and not any(is_hidden(part) for part in file.relative_to(folder).parts)]
    media = [file for file in files if is_image_name(file) or is_video_name(file)]
    own, posters = {file for file in media if is_own_sheet(file)}, posters_of(media)
    entries = []
    for file in sorted(videos | set(media) - own - posters.keys(), key=lambda file: in_order(file.relative_to(folder))):
        relative = file.relative_to(folder) if file != folder else Path(folder.name)
        if any(is_hidden(part) for part in relative.parts):
            continue
        problem = outside(file, root)
        embedded, trouble = (PromptFound(""), None) if problem else prompt_of(file, prompts_from, posters)
        entries.append(Entry(printable(str(relative)), file, embedded.prompt, embedded.seed, problem or trouble))
    others = [file for file in files if file not in own and file not in media and file.suffix.lower() not in BESIDE]
    return Generations(entries, [*_left_out(others), *_sheets(own), *_posters(posters)])


def prompt_of(file: Path, prompts_from: PromptsFrom,
              posters: dict[Path, Path] | None = None) -> tuple[PromptFound, str | None]:
    """The prompt known for a file ('' where there is none), and why it cannot be read.

    posters: images that show a video, whose metadata are the video's.
    """
    wanted = ("sidecar", "metadata", "names") if prompts_from == "auto+names" else \
        ("sidecar", "metadata") if prompts_from == "auto" else (prompts_from,)
    if "sidecar" in wanted:
        for sidecar in sidecars_of(file):
            if sidecar.is_file():
                try:
                    return prompt_in_parameters(read_text(sidecar, sidecar.name)), None
                except UserError as error:
                    return PromptFound(""), f"{error} (the prompt cannot be read)"
    if "metadata" in wanted and not file.is_dir():
        for each in (file, *(image for image, video in (posters or {}).items() if video == file)):
            if embedded := prompt_in_file(each):
                return embedded, None
    return PromptFound(prompt_of_name(stem_of(file)) if "names" in wanted else ""), None


def stem_of(file: Path) -> str:
    """The name without its suffix; a folder of frames has none."""
    return file.name if file.is_dir() else file.stem


def sidecars_of(file: Path) -> Iterator[Path]:
    """Files that may hold the prompt of a file: NAME.txt, NAME.png.txt, NAME.caption."""
    for suffix in SIDECARS:
        yield file.with_name(stem_of(file) + suffix)
        yield file.with_name(file.name + suffix)


def prompt_of_name(stem: str) -> str:
    """`a_red_apple-03` -> `a red apple`."""
    name = decode_text(os.fsencode(stem), "name") if stem != printable(stem) else stem
    return normal_form(re.sub(r"[_\s]+", " ", re.sub(r"[-_ ]\d+$", "", name)))


def is_own_sheet(file: Path) -> bool:
    """Whether it is one of visalign's contact sheets: by its own mark, or as the grid beside a samples.jsonl."""
    if file.stem not in ("grid", "sheet", "contact_sheet") or file.suffix not in (".png", ".webp"):
        return False
    if file.stem == "grid" and (file.parent / "samples.jsonl").is_file():
        return True
    drawn = file.with_suffix(".png")
    try:
        with Image.open(drawn, formats=["PNG"]) as image:
            return image.info.get("Software") == SHEET_MARK
    except (OSError, SyntaxError, ValueError):
        return False


def posters_of(media: list[Path]) -> dict[Path, Path]:
    """Images with the name of a video beside them, which show that video: {image: video}."""
    videos = {(file.parent, file.stem): file for file in media if is_video_name(file)}
    return {file: videos[file.parent, file.stem] for file in media
            if not is_video_name(file) and (file.parent, file.stem) in videos}


def _left_out(files: list[Path]) -> Iterator[str]:
    """By suffix: how many, the first names, and what to do."""
    by_ending: dict[str, list[str]] = defaultdict(list)
    for file in sorted(files):
        by_ending[file.suffix.lower()].append(printable(file.name))
    for ending, names in sorted(by_ending.items()):
        what = f"ending in {printable(ending)}" if ending else "without an ending"
        why = NOT_READ.get(ending, "neither images nor videos that are read here")
        yield f"left out {len(names)} {'file' if len(names) == 1 else 'files'} {what} ({_some(names)}): {why}"


def _sheets(files: set[Path]) -> Iterator[str]:
    if files:
        yield f"left out {len(files)} contact sheets of visalign ({', '.join(sorted({f.name for f in files}))})"


def _posters(posters: dict[Path, Path]) -> Iterator[str]:
    if posters:
        shown = _some(sorted(printable(file.name) for file in posters))
        yield (f"left out {len(posters)} {'image' if len(posters) == 1 else 'images'} with the name of a video "
               f"({shown}): each shows that video and is not a generation of its own")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
