"""Aspect-ratio buckets: sizes of about one area, of which every image takes the one nearest to its own shape.

Source: the rule by which SD-scripts and its users have made theirs, and the table of SDXL (Podell et al. 2023, app. I).
"""

import math
from dataclasses import dataclass
from functools import cached_property

from visalign.media.fitting import Size, enlargement


def bucket_sizes(area: int, step: int, least: int, most: int) -> tuple[Size, ...]:
    """Sizes of at most `area` pixels with sides from `least` to `most`, all multiples of `step`.

    For each side the longest other one, both ways round, and the largest square.
    """
    square = math.isqrt(area) // step * step
    found = {(square, square)} if least <= square <= most else set()
    for side in range(math.ceil(least / step) * step, most + 1, step):
        other = min(most, area // side) // step * step
        if other >= least:
            found |= {(side, other), (other, side)}
    return tuple(sorted(found))


USUAL_STEP = 64
"""That of SDXL, SD3, FLUX and SD 1.5; less for models of fewer than eight times as many pixels a side."""


def usual_step(area: int, factor: int = 1) -> int:
    """The step of sides, a multiple of `factor`, that models of this area are usually trained with."""
    return math.ceil(min(USUAL_STEP, math.isqrt(area) // 8) / factor) * factor


@dataclass(frozen=True)
class Buckets:
    """The sizes of a run. enlarge: the most that an image may be enlarged to cover its size; None for any."""

    area: int
    step: int
    least: int
    most: int
    enlarge: float | None = None

    @classmethod
    def around(cls, area: int, step: int, least: int | None = None, most: int | None = None,
               enlarge: float | None = None) -> "Buckets":
        """With sides from half to twice those of the square, where nothing else is said."""
        side = math.isqrt(area)
        return cls(area, step, least or math.ceil(side / 2 / step) * step, most or 2 * side // step * step, enlarge)

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        return bucket_sizes(self.area, self.step, self.least, self.most)

    def size_for(self, original: Size) -> Size | None:
        """The size at which an image is learnt: of the nearest shape, by the logarithm of height / width.

        Where it would be enlarged too much: the largest that its own sides reach, None where one is below `least`.
        """
        shape = math.log(original[0] / original[1])
        nearest = min(self.sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - shape), -math.prod(size)))
        if self.enlarge is None or enlargement(original, nearest) <= self.enlarge:
            return nearest
        reached = tuple(min(side, int(own * self.enlarge + 1e-6) // self.step * self.step)
                        for own, side in zip(original, nearest, strict=True))
        return reached if min(reached) >= self.least else None
