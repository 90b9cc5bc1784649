"""The order of a run whose images have several sizes: every batch is of one size."""

import bisect
from collections import defaultdict
from collections.abc import Hashable

import torch

from visalign.errors import UserError, notice
from visalign.sampling.seeds import epoch_seed
from visalign.trainers.mixture import Mixture
from visalign.trainers.order import DataOrder, Prompted

_NAMED = 5
"""Sizes that are named where they hold too few items."""


class BucketOrder(DataOrder[Prompted]):
    """An order whose places from k `together` to (k + 1) `together` hold items of one size, whatever the world size.

    An epoch shuffles the items of each size, cuts them into batches, and shuffles those; what is left over of a size is
    not visited in that epoch. sizes: of the items. together: items of a micro-batch of all processes.
    Raises UserError where no size has enough of them.
    """

    def __init__(self, items: list[Prompted], seed: int, sizes: list[Hashable], together: int,
                 mixture: Mixture | None = None):
        super().__init__(items, seed, mixture)
        self.sizes, self.together = sizes, together
        self._ends: list[int] = []  # of each epoch, the batches up to it
        self._batches: list[list[int]] = []
        self._tell()

    def index(self, place: int) -> int:
        number, offset = divmod(place, self.together)
        while not self._ends or number >= self._ends[-1]:
            made = sum(len(visits) // self.together for visits in self._by_size(len(self._ends)).values())
            self._ends.append((self._ends[-1] if self._ends else 0) + made)
        epoch = bisect.bisect_right(self._ends, number)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._of_epoch(epoch)
        return self._batches[number - (self._ends[epoch - 1] if epoch else 0)][offset]

    def _by_size(self, epoch: int) -> dict[Hashable, list[int]]:
        """The items that an epoch visits."""
        found = defaultdict(list)
        for index in range(len(self.items)) if self.mixture is None else self.mixture.visits(epoch):
            found[self.sizes[index]].append(index)
        return found

    def _of_epoch(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        batches = []
        for _, visits in sorted(self._by_size(epoch).items()):
            shuffled = [visits[k] for k in torch.randperm(len(visits), generator=generator).tolist()]
            whole = len(visits) // self.together * self.together
            batches += [shuffled[start:start + self.together] for start in range(0, whole, self.together)]
        return [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]

    def _tell(self) -> None:
        """Say which items are not visited in an epoch, and which never."""
        counts = {size: len(visits) for size, visits in sorted(self._by_size(0).items())}
        few = {size: count for size, count in counts.items() if count < self.together}
        batch = f"a batch of all processes takes {self.together}"
        if len(few) == len(counts):
            raise UserError(f"data.buckets: no size has enough images for a batch: {batch}, and the most common size "
                            f"has {max(counts.values())}; lower train.batch_size, or use fewer sizes with a larger "
                            "data.buckets.step")
        left = sum(count % self.together for count in counts.values() if count >= self.together)
        if few:
            named = ", ".join(f"{_word(size)} ({count})" for size, count in list(few.items())[:_NAMED])
            more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
            notice(f"data.buckets: {sum(few.values())} of {sum(counts.values())} visits of an epoch are of sizes with "
                   f"too few images to fill a batch, and are never trained on: {named}{more}; {batch}")
        if left:
            notice(f"data.buckets: {left} of {sum(counts.values())} visits of an epoch are left over where the images "
                   "of a size do not fill its last batch; other epochs leave out others")


def _word(size: Hashable) -> str:
    return "x".join(map(str, size)) if isinstance(size, tuple) else str(size)
