"""How often a selection errs against how much it keeps: the risk-coverage curve of anything that can abstain."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class RiskCoverage(NamedTuple):
    """coverage: share of the items kept, rising to 1. risk: mean error of those kept. area: mean of the risk over
    items (AURC); the order that knows nothing has the risk at coverage 1 as its area, a good one less."""

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    area: float


def risk_coverage(errors: ArrayLike, doubts: ArrayLike) -> RiskCoverage:
    """Items are kept in order of rising doubt; those of equal doubt enter together.

    errors: of each item, in [0, 1]. doubts: larger is kept later. Raises ValueError where there is none.
    """
    errors, doubts = np.asarray(errors, float), np.asarray(doubts, float)
    if not len(errors):
        raise ValueError("a risk-coverage curve needs at least one item")
    order = np.argsort(doubts, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(doubts[order]) != 0, True))
    risk = np.cumsum(errors[order])[ends] / (ends + 1)
    entered = np.diff(ends, prepend=-1)
    return RiskCoverage(tuple(((ends + 1) / len(errors)).tolist()), tuple(risk.tolist()),
                        float((risk * entered).sum() / len(errors)))
