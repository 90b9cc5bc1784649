"""Other pairs of the same user, which a head is shown beside each pair learnt from (rewards/joint/variational.py).

Which ones depends on the seed and the pair's place in the order of training alone, so that a run that is continued, or
that has more processes, shows the same. Never shown is the pair itself, nor one of the same two media.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from visalign.data.annotations import Annotation
from visalign.rewards.joint.variational import MOST_PAIRS, REFERENCES
from visalign.sampling.seeds import rng_for

LEAST_SHOWN = 2
"""Pairs shown at least, as far as the user has them."""


class Contexts:
    """Of the annotations of a run; shows nothing where the network has no `context_pairs`."""

    def __init__(self, network: Any, items: Sequence[Annotation], seed: int):
        self.network, self.items, self.seed = network, items, seed
        self.most = getattr(network, "context_pairs", 0)
        self._of_user: dict[str | None, list[int]] = defaultdict(list)
        if self.most:
            self._media = [frozenset((item.a.digest(), item.b.digest())) for item in items]
            for index, item in enumerate(items):
                if any(label in (0.0, 1.0) for label in item.outcome.values()):
                    self._of_user[item.user].append(index)

    def drawn(self, index: int, place: int) -> list[int]:
        """Which annotations are shown beside one that is learnt from at a place; [] where its user has no other."""
        others = [other for other in self._of_user[self.items[index].user] if self._media[other] != self._media[index]]
        rng = rng_for("context", self.seed, place)
        least = min(LEAST_SHOWN, self.most)
        count = int(torch.randint(least, self.most + 1, (), generator=rng))
        return [others[k] for k in torch.randperm(len(others), generator=rng)[:count].tolist()]

    def inputs_of(self, indices: Sequence[int], places: Iterable[int]) -> dict[str, Tensor]:
        """What the network reads of the pairs shown beside those learnt from."""
        if not self.most:
            return {}
        shown = [self.drawn(index, place) for index, place in zip(indices, places, strict=True)]
        whole = sorted({other for each in shown for other in each}) or list(indices[:1])
        at = {index: place for place, index in enumerate(whole)}
        longest = max(1, *(len(each) for each in shown))
        context = [[at[other] for other in each] + [-1] * (longest - len(each)) for each in shown]
        settings, items = self.network.settings, [self.items[index] for index in whole]
        samples = [item.sample(side, settings.frames) for side in "ab" for item in items]
        return {**self.network.collate_shown(samples), "said": labels_of(items, settings.dimensions),
                "context": torch.tensor(context)}

    def keep(self, sides_of: Callable[[Sequence[int]], tuple[Tensor, Tensor]]) -> None:
        """Let the trained head know its users, and what it measures the rewards of new ones on.

        sides_of: of annotations by index, features of both sides, [2n, 1 or D, d], and which are videos [2n].
        """
        if not self.most:
            return
        head, settings = self.network.heads, self.network.settings
        for place, user in enumerate(head.users.names):
            own = self._of_user[user]
            order = torch.randperm(len(own), generator=rng_for("context", self.seed, user))[:MOST_PAIRS].tolist()
            if order:
                indices = [own[k] for k in order]
                features, _ = sides_of(indices)
                said = labels_of([self.items[index] for index in indices], settings.dimensions).to(features.device)
                head.keep_user(place, *features.chunk(2), said)
        features, is_video = sides_of([k * len(self.items) // REFERENCES for k in range(REFERENCES)])
        every = torch.tensor([name not in settings.video_only for name in settings.dimensions])
        head.keep_reference(features, every | is_video[:, None])


def labels_of(items: Sequence[Annotation], dimensions: tuple[str, ...]) -> Tensor:
    """Who won, [n, D] (1: a, 0: b, 0.5: tie), NaN where nothing is said."""
    return torch.tensor([[item.outcome.get(name, float("nan")) for name in dimensions] for item in items])
