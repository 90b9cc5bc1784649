"""Edits of a drawing on a plain background that are known exactly, and how much of one was done and what was kept.

What an instruction asks for is drawn here from the source image, so a result is measured without any network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

COLOURS = {"red": (220, 45, 45), "green": (45, 160, 65), "blue": (45, 95, 220), "yellow": (245, 205, 45),
           "purple": (145, 65, 190)}
TINTED = ("red", "green", "blue")
"""The colours that also come dark and light."""
SHRUNK = 0.6
VISIBLE = 0.08
"""The least change, as a root mean square of pixels in [0, 1], that counts as an edit: a grey thing is grey already."""
TOLERANCE = 0.4
"""How far from the edit (root mean square) a result is when nothing of the rest counts as kept."""
COMPARED_SIDE = 32


@dataclass(frozen=True)
class EditScore:
    """done: how far the result went from the source to what was asked for; kept: how little else changed; in [0, 1]."""

    done: float
    kept: float

    @property
    def product(self) -> float:
        """1 for the edit alone, 0 for the source itself and for anything else."""
        return self.done * self.kept


def apply_edit(words: str, source: Image.Image) -> Image.Image:
    """The source as the instruction asks for it. Raises KeyError for words that are not in EDITS."""
    return EDITS[words](source.convert("RGB"))


def score_edit(words: str, source: Image.Image, result: Image.Image) -> EditScore | None:
    """How well the result follows the instruction; None where the edit would not be seen on this source.

    With D the asked change and R the change that was made, done is the projection of R on D, and kept falls with the
    size of what is left of R. Raises KeyError for words that are not in EDITS.
    """
    before = _pixels(source)
    asked, made = _pixels(apply_edit(words, source)) - before, _pixels(result) - before
    if _size(asked) < VISIBLE:
        return None
    done = float(np.clip((made * asked).sum() / (asked**2).sum(), 0, 1))
    return EditScore(done, max(0.0, 1 - _size(made - done * asked) / TOLERANCE))


def _pixels(image: Image.Image) -> np.ndarray:
    """float [COMPARED_SIDE, COMPARED_SIDE, 3] in [0, 1]; small, so that a line displaced by a pixel is not an error."""
    return np.asarray(image.convert("RGB").resize((COMPARED_SIDE, COMPARED_SIDE), Image.Resampling.BOX), float) / 255


def _size(change: np.ndarray) -> float:
    return float(np.sqrt((change**2).mean()))


def _background(image: Image.Image) -> tuple[tuple[int, ...], Image.Image]:
    """The border's most frequent colour, and a mask (L) of the pixels of about that colour connected to the border."""
    pixels = np.asarray(image).astype(int)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colours, counts = np.unique(border, axis=0, return_counts=True)
    colour = colours[counts.argmax()]
    regions, _ = ndimage.label(abs(pixels - colour).max(-1) < 40)
    outside = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    mask = np.isin(regions, outside[outside > 0])
    return tuple(map(int, colour)), Image.fromarray((mask * 255).astype(np.uint8))


def _coloured(image: Image.Image, colour: str, tint: float = 0.0) -> Image.Image:
    """The drawing in shades of one colour; tint: how far these are moved towards black (-1) or white (1)."""
    end = (255 if tint > 0 else 0,) * 3
    middle = _between(COLOURS[colour], end, abs(tint))
    dark, light = (_between(middle, (value,) * 3, 0.65) for value in (0, 255))
    shades = ImageOps.colorize(image.convert("L"), dark, light, middle)
    return Image.composite(image, shades, _background(image)[1])


def _between(first: tuple[int, ...], last: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round(a + share * (b - a)) for a, b in zip(first, last, strict=True))


def _grey(image: Image.Image) -> Image.Image:
    return Image.composite(image, image.convert("L").convert("RGB"), _background(image)[1])


def _smaller(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, _background(image)[0])
    small = image.resize(tuple(round(SHRUNK * side) for side in image.size), Image.Resampling.LANCZOS)
    canvas.paste(small, tuple((side - part) // 2 for side, part in zip(image.size, small.size, strict=True)))
    return canvas


def _without_half(image: Image.Image, top: bool) -> Image.Image:
    rest, middle = image.copy(), image.height // 2
    rest.paste(_background(image)[0], (0, 0 if top else middle, image.width, middle if top else image.height))
    return rest


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    **{f"make it {colour}": partial(_coloured, colour=colour) for colour in COLOURS},
    **{f"make it {word} {colour}": partial(_coloured, colour=colour, tint=tint)
       for word, tint in (("dark", -0.5), ("light", 0.5)) for colour in TINTED},
    "make it grey": _grey,
    "make it smaller": _smaller,
    "mirror it": ImageOps.mirror,
    "turn it upside down": ImageOps.flip,
    "remove the top half": partial(_without_half, top=True),
    "remove the bottom half": partial(_without_half, top=False),
}
"""What each instruction does."""
