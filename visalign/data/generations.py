"""Folders of generated pictures and clips: which files there are, for which prompts.

A source is one of
    a manifest     JSONL, CSV or parquet with prompt, image (or video, path, file, media) and optionally seed
    a folder       that `visalign generate` wrote (its samples.jsonl), or any folder of media, each with its prompt in
                   a sidecar NAME.txt or, when asked, in its file name; a folder of frames is a clip (video.py)
    a run          of `visalign train`: the newest samples on its held-out prompts
Files outside the manifest's own folder (or the media root) are refused, symbolic links included.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visalign.data.rows import table_rows
from visalign.errors import UserError, nearest
from visalign.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Sample
from visalign.runs import read_metrics
from visalign.video import FRAMES_FILE, read_media

MEDIA_KEYS = ("file", "image", "video", "path", "media")


@dataclass(frozen=True)
class Entry:
    """One generation: its path as the source names it, the file, its prompt ('' if unknown) and seed.

    problem: why it cannot be read, known before it is opened.
    """

    path: str
    file: Path
    prompt: str
    seed: int | None = None
    problem: str | None = None

    def digest(self) -> str:
        """A hash of the content. Raises OSError when it cannot be read."""
        digest = hashlib.sha256()
        for file in sorted(self.file.iterdir()) if self.file.is_dir() else [self.file]:
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def sample(self, frames: int = 64) -> Sample:
        """Decoded. Raises UserError with the reason when that fails."""
        if self.problem:
            raise UserError(self.problem)
        return Sample(self.prompt, seed=self.seed).with_media(read_media(self.file, self.path, frames))


def find_generations(source: str | Path, prompts_from_names: bool = False,
                     media_root: str | Path | None = None) -> list[Entry]:
    """Every generation of a source, in a fixed order. Raises UserError when there is none."""
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / "samples.jsonl").is_file():
            entries = list(_manifest(path / "samples.jsonl", media_root))
        elif (path / "config.yaml").is_file() and (path / "samples").is_dir():
            entries = list(_run(path))
        else:
            entries = list(_folder(path, prompts_from_names))
    elif path.suffix in (".jsonl", ".csv", ".parquet") and path.is_file():
        entries = list(_manifest(path, media_root))
    elif path.is_file():
        raise UserError(f"input {source}: neither a folder nor a manifest (.jsonl, .csv, .parquet)")
    else:
        raise UserError(f"input {source}: there is no such file or folder")
    if not entries:
        raise UserError(f"input {source}: holds no picture and no clip")
    return entries


def _folder(folder: Path, prompts_from_names: bool) -> Iterator[Entry]:
    root = os.path.realpath(folder)
    clips = {file.parent for file in folder.rglob(FRAMES_FILE)}
    files = {p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES}
    for file in sorted(clips | {p for p in files if not clips & set(p.parents)}):
        if file.stem == "grid" or any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        name = str(file.relative_to(folder))
        sidecar = file.with_suffix(".txt")
        prompt, problem = "", _outside(file, root)
        if problem is None and sidecar.is_file():
            try:
                prompt = sidecar.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                problem = f"{sidecar.name}: the prompt cannot be read ({error})"
        elif prompts_from_names:
            prompt = prompt_of_name(file.stem)
        yield Entry(name, file, prompt, None, problem)


def prompt_of_name(stem: str) -> str:
    """`a_red_apple-03` -> `a red apple`."""
    return re.sub(r"[_\s]+", " ", re.sub(r"[-_ ]\d+$", "", stem)).strip()


def _manifest(file: Path, media_root: str | Path | None) -> Iterator[Entry]:
    root = Path(media_root).expanduser() if media_root else file.parent
    if not root.is_dir():
        raise UserError(f"media root {root}: there is no such folder")
    real = os.path.realpath(root)
    for where, row in table_rows(str(file), "train"):
        if "__broken__" in row:
            yield Entry(where, file, "", None, row["__broken__"])
            continue
        key = next((key for key in MEDIA_KEYS if row.get(key)), None)
        if key is None or not isinstance(row[key], str):
            hint = nearest("image", row) if row else ""
            yield Entry(where, file, "", None, f"{where}: names no file in any of {', '.join(MEDIA_KEYS)}{hint}")
            continue
        media = root / Path(row[key]).expanduser()
        prompt = row.get("prompt")
        yield Entry(row[key], media, prompt if isinstance(prompt, str) else "", _seed(row.get("seed")),
                    _outside(media, real))


def _seed(value) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _outside(file: Path, root: str) -> str | None:
    """Why a file is refused; `root` is a real path."""
    real = os.path.realpath(file)
    if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
        return f"{file}: lies outside {root}; refused (name another folder with --media-root)"
    return None


def _run(folder: Path) -> Iterator[Entry]:
    """Samples are named by prompt number and picture number; the prompts are in the metrics."""
    steps = sorted(p for p in (folder / "samples").glob("step-*") if p.is_dir())
    prompts = next((row["prompts"] for row in read_metrics(folder) if row.get("kind") == "held_out"), None)
    if not steps or prompts is None:
        raise UserError(f"input {folder}: this run has not written samples yet")
    for file in sorted(steps[-1].glob("[0-9]*-*.*")):
        number = int(file.stem.split("-")[0])
        yield Entry(str(file.relative_to(folder)), file, prompts[number] if number < len(prompts) else "")
