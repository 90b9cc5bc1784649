"""Settings of aspect-ratio buckets."""

from pydantic import model_validator

from visalign.config.common import Settings
from visalign.validation.ranges import Enlargement, SideLength


class BucketSettings(Settings):
    """Sizes of the area of model.resolution; each image is learnt at the one nearest to its own shape.

    step: sides are multiples of it (null: 64, or an eighth of a square's side where that is less). min, max: of a side
    (null: half and twice a square's). enlarge: the most that an image may be enlarged to cover its size, 1 for not at
    all (null: any); a smaller image is learnt at the largest size that it covers, and left out where a side of that is
    below `min`.
    """

    step: SideLength | None = None
    min: SideLength | None = None
    max: SideLength | None = None
    enlarge: Enlargement | None = None

    @model_validator(mode="after")
    def _consistent(self):
        if self.min and self.max and self.max < self.min:
            raise ValueError(f"data.buckets.max {self.max} is less than data.buckets.min {self.min}")
        return self
