"""Generations in chunks of about the same work."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from visalign.data.entry import Entry
from visalign.media.kinds import may_be_video

Item = TypeVar("Item")
MP4_TASK = 64
"""How many images a video counts as, since all its frames are in memory."""


def kept_together(entries: list[Entry], grouped: bool) -> list[list[int]]:
    """Indices of entries that may not be parted: those of a prompt where `grouped`, else each alone."""
    if not grouped:
        return [[i] for i in range(len(entries))]
    groups: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        groups.setdefault(entry.group, []).append(i)
    return list(groups.values())


def weight_of(entry: Entry) -> int:
    """As how many images it counts."""
    return MP4_TASK if entry.file and may_be_video(entry.file) else 1


def gathered(rows: Iterable[list[Item]], least: int, weigh: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Rows joined until they weigh at least so much; each is joined only when it is asked for."""
    chunk: list[Item] = []
    weight = 0
    for row in rows:
        chunk += row
        weight += sum(map(weigh, row))
        if weight >= least:
            yield chunk
            chunk, weight = [], 0
    if chunk:
        yield chunk
