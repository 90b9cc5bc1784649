"""The size of generated media."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Shape:
    """Height and width of generated media in pixels; for videos also the number of frames and the frame rate."""

    height: int | None = None
    width: int | None = None
    frames: int | None = None
    fps: float | None = None

    def or_else(self, other: "Shape") -> "Shape":
        """This shape, with unknown values taken from another."""
        return Shape(*(a if a is not None else b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a shape that is known."""
        assert self.height is not None and self.width is not None
        return self.height, self.width

    def __str__(self) -> str:
        size = f"{self.height}x{self.width}"
        return f"{self.frames} frames of {size} at {self.fps:g} a second" if self.frames else size
