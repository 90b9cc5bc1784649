"""Photographs of one subject: those of a folder, of a list of files, or the embedded `emoji:subject`."""

import functools
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from visalign.errors import UserError
from visalign.media.image_files import read_image
from visalign.media.kinds import in_order, is_hidden, is_image_name
from visalign.media.samples import fit_image

SUBJECT = "emoji:subject"
_DRAWINGS = Path(__file__).resolve().parents[1] / "assets" / "emoji" / "emoji.parquet"
_NAME = "panda"
"""A drawing that no embedded model has seen."""


def read_photographs(source: str | Sequence[str], where: str) -> dict[str, Image.Image]:
    """RGB images by their files, in the order of their names; of a folder those that lie in it directly.

    Raises UserError naming `where` when there is none, or one cannot be read.
    """
    if source == SUBJECT:
        return {f"{SUBJECT} {number}": image for number, image in enumerate(_embedded(), 1)}
    files = _in_folder(source, where) if isinstance(source, str) else [Path(each).expanduser() for each in source]
    if not files:
        raise UserError(f"{where}: names no photograph; give a folder, or a list of image files")
    return {str(file): read_image(file, f"{where} {file}") for file in files}


def _in_folder(source: str, where: str) -> list[Path]:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UserError(f"{where} {source}: there is no such folder; give one with photographs of the subject, or a "
                        "list of files")
    files = [file for file in folder.iterdir() if file.is_file() and is_image_name(file) and not is_hidden(file.name)]
    if not files:
        raise UserError(f"{where} {source}: the folder holds no image; put the photographs of the subject into it")
    return sorted(files, key=lambda file: in_order(file.name))


@functools.cache
def _embedded() -> tuple[Image.Image, ...]:
    """One drawing as it is, mirrored, further away, and further away at another place."""
    import pyarrow.parquet as pq

    table = pq.read_table(_DRAWINGS, columns=["image", "name", "style"]).to_pylist()
    data = next(row["image"] for row in table if row["name"] == _NAME and row["style"] == "noto")
    drawing = read_image(data, SUBJECT)
    width, height = drawing.size
    small = fit_image(drawing, width * 3 // 4, height * 3 // 4)

    def placed(left: int, top: int) -> Image.Image:
        ground = Image.new("RGB", drawing.size, "white")
        ground.paste(small, (left, top))
        return ground

    return drawing, ImageOps.mirror(drawing), placed(width // 8, height // 8), placed(0, height // 4)
