"""Strengths of models from people's votes, beside whatever else sways a vote: Bradley-Terry with covariates (the style
control of LMArena, Li et al. 2024), ties by Davidson (1970), intervals clustered by voter and by prompt.

    P(first), P(second), P(tie) in the ratio exp(eta / 2) : exp(-eta / 2) : nu,   eta = s_first - s_second + x beta

s are strengths in log-odds that sum to 0, x what differs between the two sides (which was on the left, how much
brighter one is), nu how readily people call a tie. Without ties nu is 0 and, without x, this is Bradley and Terry's
model. One voter's votes are not independent: with g_v the sum of the scores of voter v's votes, H the information and V
voters,

    cov_voter = V / (V - 1) H^-1 (sum_v g_v g_v^T) H^-1,   interval: estimate +- t_{V - 1} sqrt(cov)

(the sandwich of Liang and Zeger 1986, with the small-sample factor and t of Cameron and Miller 2015). One voter has
none. Nor are the votes on one prompt, where one model may be lucky for everybody. Where prompts are known, too,

    cov = cov_voter + cov_prompt - cov_both,   t_{min(V, P) - 1}

both: a voter's votes on one prompt, which the sum counts twice (Cameron, Gelbach and Miller 2011). The difference may
fall below its parts, and below 0; the largest of the three variances is taken then (MacKinnon, Nielsen and Webb 2021).
One prompt has no interval either.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy

from visalign.evaluators.ranking import ELO, MEAN_ELO, NoRanking, check_joined
from visalign.evaluators.statistics import LEVEL, Estimate, unknown

GRADIENT_TOLERANCE = 1e-7


@dataclass(frozen=True)
class VoteTable:
    """V votes between n models. first, second: places in `models`, ints [V]. outcome: 1 where the first won, -1 where
    the second did, 0 for a tie, [V]. voters: whose each vote is, [V]. covariates: float64 [V, C], each first side minus
    second, named by `names`. prompts: on what each vote is, [V], where that is known."""

    models: list[str]
    first: np.ndarray
    second: np.ndarray
    outcome: np.ndarray
    voters: np.ndarray
    covariates: np.ndarray
    names: tuple[str, ...] = ()
    prompts: np.ndarray | None = None

    def plain(self) -> "VoteTable":
        """Without covariates."""
        return replace(self, covariates=self.covariates[:, :0], names=())

    @property
    def wins(self) -> np.ndarray:
        """Of model i over j, ties half to each, [n, n]."""
        wins = np.zeros((len(self.models), len(self.models)))
        np.add.at(wins, (self.first, self.second), (1 + self.outcome) / 2)
        np.add.at(wins, (self.second, self.first), (1 - self.outcome) / 2)
        return wins


@dataclass(frozen=True)
class DesignFit:
    """b: coefficients of eta = design @ b, with log nu at the end where anybody voted a tie (ties). naive, clustered:
    their covariances as if all votes were independent, and by voter (None of a single voter). by_prompt, by_both: the
    same by prompt, and by voter and prompt, where prompts are known (None of a single one). prompts: how many there
    are, 0 where they are not known. chances: of first, second and tie by the fit, [V, 3]."""

    b: np.ndarray
    ties: bool
    naive: np.ndarray
    clustered: np.ndarray | None
    voters: int
    chances: np.ndarray
    by_prompt: np.ndarray | None = None
    by_both: np.ndarray | None = None
    prompts: int = 0

    def between(self, place: int, clustered: bool = True) -> Estimate:
        """A coefficient with its interval, which is infinite where there is none."""
        value, sure = float(self.b[place]), (1 + LEVEL) / 2
        variance = self._variance(place) if clustered else float(self.naive[place, place])
        if variance is None:
            return unknown(value)
        groups = min(self.voters, self.prompts or self.voters)
        wide = scipy.stats.t.ppf(sure, groups - 1) if clustered else scipy.stats.norm.ppf(sure)
        half = float(wide * variance ** 0.5)
        return Estimate(value, value - half, value + half)

    def _variance(self, place: int) -> float | None:
        """By voter, and by prompt where those are known; None where there is a single one."""
        if self.clustered is None or self.prompts == 1:
            return None
        by_voter = float(self.clustered[place, place])
        if self.by_prompt is None or self.by_both is None:
            return by_voter
        by_prompt = float(self.by_prompt[place, place])
        return max(by_voter, by_prompt, by_voter + by_prompt - float(self.by_both[place, place]))

    def mapped(self, out: np.ndarray) -> "DesignFit":
        """Of the coefficients out @ b."""
        def moved(cov: np.ndarray | None) -> np.ndarray | None:
            return None if cov is None else out @ cov @ out.T

        return replace(self, b=out @ self.b, naive=out @ self.naive @ out.T, clustered=moved(self.clustered),
                       by_prompt=moved(self.by_prompt), by_both=moved(self.by_both))


@dataclass(frozen=True)
class VoteFit:
    """models: how many. fit: of their strengths (log-odds, sum 0), then the covariates' effects, then log nu."""

    models: int
    fit: DesignFit

    @property
    def strengths(self) -> np.ndarray:
        return self.fit.b[:self.models]

    def elo(self, i: int, clustered: bool = True) -> Estimate:
        """Strength of model i on the Elo scale, mean 1000."""
        return Estimate(*(ELO * bound + MEAN_ELO for bound in self.fit.between(i, clustered)))

    def effect(self, c: int, clustered: bool = True) -> Estimate:
        """Log-odds that a difference of 1 in covariate c adds."""
        return self.fit.between(self.models + c, clustered)

    def tie(self, clustered: bool = True) -> Estimate | None:
        """nu: how much likelier a tie is than either win between equals; None where nobody voted a tie."""
        if not self.fit.ties:
            return None
        return Estimate(*np.exp(self.fit.between(len(self.fit.b) - 1, clustered)).tolist())


def fit_votes(table: VoteTable) -> VoteFit:
    """By maximum likelihood. Raises NoRanking where the votes do not join all models, where a covariate cannot be told
    from the others, and where votes are so few that strengths or effects have no finite fit."""
    check_joined(table.wins, table.models)
    n, count = len(table.models), len(table.outcome)
    basis = scipy.linalg.helmert(n).T  # strengths that sum to 0 have n - 1 degrees of freedom
    design = np.hstack([basis[table.first] - basis[table.second], table.covariates])
    found = fit_design(design, table.outcome, table.voters, table.names, f"{count} votes between {n} models",
                       table.prompts)
    return VoteFit(n, found.mapped(scipy.linalg.block_diag(basis, np.eye(len(found.b) - n + 1))))


def fit_design(design: np.ndarray, outcome: np.ndarray, voters: np.ndarray, names: tuple[str, ...],
               where: str, prompts: np.ndarray | None = None) -> DesignFit:
    """eta = design @ b of votes [V, p]. names, where: for the sentence of NoRanking, raised where the likelihood has no
    single maximum."""
    _check_identified(design, outcome, names, where)
    ties = bool((outcome == 0).any())
    b, chances = maximum_likelihood(design, outcome, ties)
    inverse = np.linalg.inv(_information(design, chances, ties))
    scores = _scores(design, outcome, chances, ties)
    of_voter = np.unique(voters, return_inverse=True)[1]
    fit = DesignFit(b, ties, inverse, _sandwich(inverse, scores, of_voter), int(of_voter.max()) + 1, chances)
    if prompts is None:
        return fit
    of_prompt = np.unique(prompts, return_inverse=True)[1]
    count = int(of_prompt.max()) + 1
    return replace(fit, by_prompt=_sandwich(inverse, scores, of_prompt), prompts=count,
                   by_both=_sandwich(inverse, scores, of_voter * count + of_prompt))


def _sandwich(inverse: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
    """The covariance clustered by one grouping of the votes [V]; None of a single group."""
    known, place = np.unique(groups, return_inverse=True)
    if len(known) < 2:
        return None
    summed = np.zeros((len(known), scores.shape[1]))
    np.add.at(summed, place, scores)
    return len(known) / (len(known) - 1) * inverse @ (summed.T @ summed) @ inverse


def maximum_likelihood(design: np.ndarray, outcome: np.ndarray, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of eta = design @ b [V, p], with log nu at the end where there are ties, and the chances [V, 3]."""
    def loss(b):
        return -_log_likelihood(_chances(design, b, ties), outcome)

    def slope(b):
        return -_scores(design, outcome, _chances(design, b, ties), ties).sum(0)

    def curvature(b):
        return _information(design, _chances(design, b, ties), ties)

    flat = GRADIENT_TOLERANCE * max(1, len(outcome)) ** 0.5
    done = scipy.optimize.minimize(loss, np.zeros(design.shape[1] + ties), jac=slope, hess=curvature,
                                   method="trust-exact", options={"gtol": flat})
    step = np.linalg.solve(curvature(done.x), slope(done.x))  # one of Newton's, down to the last digits
    return done.x - step, _chances(design, done.x - step, ties)


def _chances(design: np.ndarray, b: np.ndarray, ties: bool) -> np.ndarray:
    eta = design @ b[:design.shape[1]]
    tie = np.full_like(eta, b[-1] if ties else -np.inf)
    return scipy.special.softmax(np.stack([eta / 2, -eta / 2, tie], axis=1), axis=1)


def _log_likelihood(chances: np.ndarray, outcome: np.ndarray) -> float:
    return float(np.log(chance_of(chances, outcome)).sum())


def chance_of(chances: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Of what each vote said, [V]."""
    said = np.select([outcome > 0, outcome < 0], [0, 1], 2)
    return chances[np.arange(len(outcome)), said]


def _scores(design: np.ndarray, outcome: np.ndarray, chances: np.ndarray, ties: bool) -> np.ndarray:
    """Slope of each vote's log-likelihood, [V, p]."""
    by_eta = (outcome - (chances[:, 0] - chances[:, 1])) / 2
    parts = [by_eta[:, None] * design]
    if ties:
        parts.append(((outcome == 0) - chances[:, 2])[:, None])
    return np.hstack(parts)


def _information(design: np.ndarray, chances: np.ndarray, ties: bool) -> np.ndarray:
    """Fisher's information of all votes, [p, p]: the covariance of (won by half, tied) through the design."""
    ahead, tie = chances[:, 0] - chances[:, 1], chances[:, 2]
    eta = (design * ((chances[:, 0] + chances[:, 1] - ahead**2) / 4)[:, None]).T @ design
    if not ties:
        return eta
    both = -(design * (ahead * tie / 2)[:, None]).sum(0)
    return np.block([[eta, both[:, None]], [both[None], (tie * (1 - tie)).sum()[None, None]]])


def _check_identified(design: np.ndarray, outcome: np.ndarray, names: tuple[str, ...], where: str) -> None:
    """Raise NoRanking where the likelihood has no maximum, or one that is not single.

    It has none where some direction of the parameters makes no vote unlikelier and one likelier, without end (Albert
    and Anderson 1984): a linear programme. d is that of the coefficients, t that of log nu; a win needs eta / 2 to grow
    at least as fast as t and not to fall, a tie t to grow at least as fast as |eta| / 2.
    """
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise NoRanking(f"no ranking beside {', '.join(names)}: in {where} one of them goes with the others or "
                        "with the models, so that its effect cannot be told from theirs")
    won = outcome != 0
    signed, tied = design[won] * outcome[won, None], design[~won]
    t = np.ones(len(design))[:, None]
    rows = np.vstack([np.hstack([signed, 0 * t[won]]), np.hstack([signed, -2 * t[won]]),
                      np.hstack([tied, 2 * t[~won]]), np.hstack([-tied, 2 * t[~won]])])
    bounds = [(-1, 1)] * design.shape[1] + [(0, 1 if len(tied) else 0)]
    best = scipy.optimize.linprog(-rows.sum(0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=bounds)
    if best.status != 0 or -best.fun > 1e-6 * len(rows):
        raise NoRanking(f"no ranking beside {', '.join(names) or 'ties'}: they foretell every one of {where}, so "
                        "that no finite strength fits; more votes are needed")
