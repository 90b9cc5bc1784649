"""How many images of a set each aspect-ratio bucket gets, by the headers of their files alone."""

import textwrap
from collections import Counter
from collections.abc import Iterable

from visalign.data.preference_pair import PreferencePair
from visalign.errors import UserError
from visalign.media.buckets import Buckets
from visalign.media.fitting import Size

MOST_IN_TABLES = 1000
BAR = 40
"""Characters of the longest bar."""


def count_sizes(pairs: Iterable[PreferencePair], buckets: Buckets) -> Counter[Size | None]:
    """Pairs by the size at which they are learnt, which is that of the chosen image; None for those too small for any.

    Those that cannot be read are not counted. {} where more than `MOST_IN_TABLES` images lie in the tables themselves,
    which would all have to be read once more.
    """
    counts: Counter[Size | None] = Counter()
    in_tables = 0
    for pair in pairs:
        in_tables += isinstance(pair.chosen, bytes)
        if in_tables > MOST_IN_TABLES:
            return Counter()
        try:
            counts[buckets.size_for(pair.size())] += pair.repeats
        except UserError:  # the check of the set tells of it
            continue
    return counts


def check_sizes(counts: Counter[Size | None], buckets: Buckets, together: int) -> None:
    """Raise UserError where no size has enough pairs for a batch. together: pairs in a batch of all processes."""
    small, most = counts[None], max((count for size, count in counts.items() if size), default=0)
    if small and not most:
        raise UserError(f"data.buckets.enlarge {buckets.enlarge:g}: all {small} images are too small, since none "
                        f"reaches sides of {buckets.least} pixels; raise data.buckets.enlarge or lower "
                        "data.buckets.min")
    if counts and most < together:
        raise UserError(f"data.buckets: no size has enough images for a batch: one of all processes takes {together}, "
                        f"and the most common size has {most}; lower train.batch_size, or use fewer sizes with a "
                        "larger data.buckets.step")


def bucket_lines(counts: Counter[Size | None], buckets: Buckets) -> list[str]:
    """Lines that say how many pairs each size gets, or the sizes alone where no counts are known."""
    head = f"buckets               {len(buckets.sizes)} of up to {buckets.area:,} pixels, sides from {buckets.least} " \
           f"to {buckets.most} in steps of {buckets.step}; height x width"
    if not counts:
        return [head, *textwrap.wrap(", ".join(map(_word, buckets.sizes)), 110, initial_indent="  ",
                                     subsequent_indent="  ")]
    held = sorted((size, count) for size, count in counts.items() if size)
    longest = max((count for _, count in held), default=1)
    lines = [f"  {_word(size):>10} {count:>9,} {'#' * max(1, round(BAR * count / longest))}" for size, count in held]
    return [head, *lines, *[f"  {'too small':>10} {counts[None]:>9,} left out"] * bool(counts[None])]


def _word(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
