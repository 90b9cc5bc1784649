"""The aspect-ratio buckets of a model, from its settings and what its networks can take."""

import math

from visalign.config import DataSettings
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.media.buckets import Buckets, usual_step


def check_buckets(data: DataSettings, family: type[Generator]) -> None:
    """Raise UserError for settings of sizes that no model of this family can follow; loads nothing."""
    if data.buckets and family.modality != "image":
        raise UserError(f"data.buckets: {family.pipeline_class} makes videos, which are all learnt at one size; leave "
                        "data.buckets out")
    if data.micro_conditions == "image" and not family.told_fit:
        raise UserError(f"data.micro_conditions image: {family.pipeline_class} is not told of an image's size and "
                        "crop; leave data.micro_conditions out")


def buckets_of(data: DataSettings, generator: Generator) -> Buckets | None:
    """The buckets of a run, None where there are none. `generator` may be without weights.

    Raises UserError for sizes that it cannot take.
    """
    settings = data.buckets
    if settings is None:
        return None
    area, factor = math.prod(generator.shape.size), math.lcm(*generator.side_factors())
    buckets = Buckets.around(area, settings.step or usual_step(area, factor), settings.min, settings.max,
                             settings.enlarge)
    _check_multiple("step", buckets.step, factor, generator.pipeline_class)
    for name, value in (("min", settings.min), ("max", settings.max)):
        _check_multiple(name, value or 0, buckets.step, "data.buckets.step")
    if not buckets.least <= math.isqrt(area) <= buckets.most:
        raise UserError(f"data.buckets: sides from {buckets.least} to {buckets.most} leave out the square of "
                        f"model.resolution, whose side is {math.isqrt(area)}; lower data.buckets.min or raise "
                        "data.buckets.max")
    for size in buckets.sizes:
        generator.check_size(size)
    return buckets


def _check_multiple(name: str, value: int, factor: int, whose: str) -> None:
    if value % factor:
        low = max(1, value // factor) * factor
        needs = f"a multiple of {factor}, which {whose} needs" if name == "step" else \
            f"a multiple of {whose}, which is {factor}"
        raise UserError(f"data.buckets.{name} {value}: is not {needs}; use {low} or {low + factor}")
