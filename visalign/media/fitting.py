"""How an image comes to a size: it is scaled until it covers it, and cropped to the centre."""

from dataclasses import dataclass

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Fitting:
    """The way of an image of size `original` to `target`. scaled: its size before it is cropped. crop: (top, left) of
    what is kept of it, in its pixels then."""

    original: Size
    scaled: Size
    crop: Size
    target: Size

    @property
    def numbers(self) -> tuple[int, ...]:
        """Height and width of the original, top and left of the crop, height and width of the target."""
        return *self.original, *self.crop, *self.target


def enlargement(original: Size, target: Size) -> float:
    """How much larger an image of size `original` must be made to cover `target`; below 1 it is made smaller."""
    return max(target[0] / original[0], target[1] / original[1])


def fit_of(original: Size, target: Size) -> Fitting:
    scale = enlargement(original, target)
    height, width = (max(wanted, round(side * scale)) for side, wanted in zip(original, target, strict=True))
    return Fitting(original, (height, width), ((height - target[0]) // 2, (width - target[1]) // 2), target)
