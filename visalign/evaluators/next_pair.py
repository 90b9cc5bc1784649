"""Which two models the next vote should be on: those from whose meeting most is learnt, without forgetting any.

    gain(i, j) = log(1 + p (1 - p) (C_ii + C_jj - 2 C_ij)) / 2

is how much a vote lowers the entropy (nats) of the strengths' posterior, to second order: Fisher's information of a
vote at the strengths so far, against their covariance C (D-optimal design; Chernoff 1959). Strengths have a normal
prior, so that models without a vote have a place, far from certain. A model that was compared less than LEAST_SHARE of
an equal share comes first, whatever is learnt.
"""

import itertools

import numpy as np
import scipy

STRENGTH_PRIOR = 2.0
"""Standard deviation of strengths, in log-odds: two models then differ by less than 5.5 in 95 % of cases."""
LEAST_SHARE = 0.5


def posterior(wins: np.ndarray, prior: float = STRENGTH_PRIOR) -> tuple[np.ndarray, np.ndarray]:
    """Bradley-Terry strengths (log-odds) of wins [n, n], ties half to each, at the mode, and their covariance."""
    games = wins + wins.T

    def parts(s: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        gap = s[:, None] - s
        chance = scipy.special.expit(gap)
        loss = -(wins * scipy.special.log_expit(gap)).sum() + (s**2).sum() / (2 * prior**2)
        known = games * chance * (1 - chance)
        curvature = np.diag(known.sum(1)) - known + np.eye(len(s)) / prior**2
        return loss, s / prior**2 - (wins - games * chance).sum(1), curvature

    done = scipy.optimize.minimize(lambda s: parts(s)[0], np.zeros(len(wins)), jac=lambda s: parts(s)[1],
                                   hess=lambda s: parts(s)[2], method="trust-exact", options={"gtol": 1e-6})
    return done.x, np.linalg.inv(parts(done.x)[2])


def information(wins: np.ndarray, prior: float = STRENGTH_PRIOR) -> np.ndarray:
    """Nats that a vote between i and j is expected to add, [n, n], 0 on the diagonal."""
    s, cov = posterior(wins, prior)
    chance = scipy.special.expit(s[:, None] - s)
    spread = np.diag(cov)[:, None] + np.diag(cov) - 2 * cov
    return np.log1p(chance * (1 - chance) * np.maximum(spread, 0)) / 2


def fallen_behind(wins: np.ndarray, least: float = LEAST_SHARE) -> np.ndarray:
    """Which models were compared least and less than `least` of an equal share, bool [n]."""
    games = (wins + wins.T).sum(1)
    behind = games < least * games.mean()
    return games == games[behind].min() if behind.any() else behind


def next_pairs(wins: np.ndarray, allowed: np.ndarray, least: float = LEAST_SHARE) -> list[tuple[int, int]]:
    """Pairs i < j that may meet (allowed, bool [n, n]), the best first: of the least compared model where it fell
    behind, then by what is learnt."""
    gain, fewest = information(wins), fallen_behind(wins, least)
    pairs = [(i, j) for i, j in itertools.combinations(range(len(wins)), 2) if allowed[i, j]]
    return sorted(pairs, key=lambda pair: (not fewest[list(pair)].any(), -gain[pair]))
