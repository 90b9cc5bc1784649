"""What users preferred, as a folder that a judge reads: `history.json` and the images it names.

    {"users": {"user-0123456789abcdef": [{"prompt": "a red car", "chosen": ["0001.png"], "rejected": ["0002.png"]}]}}

Names of users are hashes. Of a video a few frames are kept.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visalign.errors import UserError
from visalign.media.image_files import read_image
from visalign.media.samples import to_bytes
from visalign.storage.files import write_atomically
from visalign.storage.weights import read_json

HISTORY_FILE = "history.json"


@dataclass(frozen=True)
class Preferred:
    """What one user preferred to what, for a prompt: an image each, or frames of a video in order."""

    prompt: str
    chosen: tuple[Image.Image, ...]
    rejected: tuple[Image.Image, ...]


def write_history(folder: Path, users: Mapping[str, Iterable[Preferred]]) -> None:
    """Into a new folder. users: by hashed name."""
    folder.mkdir(parents=True)
    count = 0
    told: dict[str, list[dict]] = {}

    def kept(images: tuple[Image.Image, ...]) -> list[str]:
        nonlocal count
        names = []
        for image in images:
            count += 1
            names.append(f"{count:05d}.png")
            write_atomically(folder / names[-1], to_bytes(image))
        return names

    for user, pairs in users.items():
        told[user] = [{"prompt": pair.prompt, "chosen": kept(pair.chosen), "rejected": kept(pair.rejected)}
                      for pair in pairs]
    write_atomically(folder / HISTORY_FILE, (json.dumps({"users": told}, indent=1) + "\n").encode())


def read_history(folder: Path, where: str) -> dict[str, list[Preferred]]:
    """The pairs of each user, by hashed name. Raises UserError naming the file that is missing or unreadable."""
    file = folder / HISTORY_FILE
    if not file.is_file():
        raise UserError(f"{where}: {folder} holds no {HISTORY_FILE}; `visalign reward fit-user` makes such a folder "
                        "from a user's pairs")
    told = read_json(file, f"{where} {file}").get("users")
    if not isinstance(told, dict) or not told:
        raise UserError(f"{where} {file}: names no user")
    return {user: [_read_pair(pair, folder, f"{where} {file}") for pair in pairs] for user, pairs in told.items()}


def _read_pair(pair: dict, folder: Path, where: str) -> Preferred:
    def images(side: str) -> tuple[Image.Image, ...]:
        names = pair[side]
        if not names or any(Path(name).name != name for name in names):
            raise ValueError
        return tuple(read_image(folder / name, f"{where}: {name}") for name in names)

    try:
        return Preferred(str(pair["prompt"]), images("chosen"), images("rejected"))
    except (LookupError, TypeError, ValueError):
        raise UserError(f"{where}: a pair must have a prompt, and lists of names of images in the folder as chosen and "
                        "rejected") from None
