"""What judges a sample."""

from typing import Protocol

from torch import Tensor

from visalign.errors import UserError
from visalign.media import Sample


class Reward(Protocol):
    """A judge. `score` returns float32 [n, len(dimensions)]; what could not be judged is NaN, never a silent 0."""

    name: str
    modalities: frozenset[str]
    dimensions: tuple[str, ...]
    higher_is_better: bool

    def score(self, samples: list[Sample]) -> Tensor: ...


def finite_scores(reward: Reward, samples: list[Sample]) -> Tensor:
    """First dimension of the scores, larger is better, float32 [n].

    Raises UserError naming a prompt when a score is NaN or infinite.
    """
    scores = reward.score(samples)[:, 0]
    bad = (~scores.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise UserError(f"reward {reward.name}: {len(bad)} of {len(samples)} scores are not finite, the first for "
                        f"prompt '{samples[bad[0]].prompt}'; training on them would teach noise")
    return scores if reward.higher_is_better else -scores
