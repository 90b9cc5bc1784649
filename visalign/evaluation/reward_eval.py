"""`visalign reward eval`: any reward against annotations, with intervals, calibration, robustness and a report."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from visalign.data.annotations import Annotation
from visalign.data.text_annotations import AnnotatedText
from visalign.evaluation.augmented_kinds import AugmentedKind
from visalign.evaluators.reversals import InContext, Reversals, reversals
from visalign.evaluators.reward_accuracy import (
    Agreement,
    Calibration,
    agreement,
    calibration,
    clustered_mean,
    correctness,
)
from visalign.evaluators.risk_coverage import RiskCoverage, risk_coverage
from visalign.evaluators.statistics import Estimate
from visalign.media.answers import Answer
from visalign.media.changes import cropped, jpeg, resized
from visalign.media.samples import Sample, Video
from visalign.rewards import Reward
from visalign.rewards.pairwise import Failure, PairReward, log_odds

SCORING_BATCH = 64
SCORED_FRAMES = 16


@dataclass(frozen=True)
class Robustness:
    """A no-op edit: mean |change| of the reward as a share of the mean |margin| of labelled pairs, and how many of
    those pairs change their order when side a is edited, with an interval over prompts."""

    edit: str
    relative_change: float
    flipped: Estimate


@dataclass(frozen=True)
class Abstention:
    """What is gained by keeping only the decided pairs that a reward is surest of: the curve of errors, and the
    accuracy on the surer half."""

    curve: RiskCoverage
    surer_half: Estimate


@dataclass(frozen=True)
class DimensionReport:
    """One labelled dimension: overall, by modality and kind, calibration, robustness. abstention: by what tells how
    sure the reward is: its margin, and its margin over its own spread where it gives one. reversals: what contexts turn
    round."""

    dimension: str
    scored_by: str
    overall: Agreement
    parts: dict[str, Agreement]
    calibration: Calibration | None
    robustness: list[Robustness]
    not_scored: int
    abstention: dict[str, Abstention]
    reversals: Reversals | None = None


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 95": jpeg, "resized to 125 % and back": resized, "1 % cropped from each side": cropped}
TEXT_EDITS: dict[str, Callable[[str], str]] = {
    "line breaks at the end": lambda text: f"{text}\n\n", "two spaces for one": lambda text: text.replace(" ", "  "),
    "typographic quotes": lambda text: re.sub(r'"([^"]*)"', "\u201c\\1\u201d", text).replace("'", "\u2019")}


def edited(sample: Sample, edit: Callable) -> Sample:
    if sample.answer is not None:
        return sample.with_media(Answer(edit(sample.answer)))
    if sample.video is not None:
        return sample.with_media(Video([edit(frame) for frame in sample.video.frames], sample.video.fps))
    return sample.with_media(edit(sample.image))


@dataclass
class ScoredAnnotation:
    """A reward's values of both sides, [n, D], those of the edited side a by edit, and each annotation's
    modality.

    Of a reward that compares, `a` and `edits` hold the log-odds of winning against b, whose own value is 0.
    spread: of a's value less b's, [n, D], NaN where the reward tells none.
    """

    a: np.ndarray
    b: np.ndarray
    edits: dict[str, np.ndarray]
    modality: np.ndarray
    spread: np.ndarray


def score_annotations(reward: Reward, items: list[Annotation], edits: bool = True) -> ScoredAnnotation:
    """Score both sides of every annotation, and side a once more under each edit."""
    kinds: dict[str, Callable] = {}
    if edits:
        kinds = TEXT_EDITS if isinstance(items[0].a, AnnotatedText) else EDITS
    sides: dict[str, list[np.ndarray]] = {name: [] for name in ("a", "b", "spread", *kinds)}
    modality: list[str] = []
    for start in tqdm(range(0, len(items), SCORING_BATCH), desc=f"scoring with {reward.name}", unit="batch"):
        part = items[start:start + SCORING_BATCH]
        a, b = ([item.sample(side, SCORED_FRAMES) for item in part] for side in "ab")
        modality += [sample.modality for sample in a]
        value = against(reward, b)
        for name, values in zip(("a", "b", "spread"), _both_sides(reward, a, b), strict=True):
            sides[name].append(values)
        for name, edit in kinds.items():
            sides[name].append(value([edited(sample, edit) for sample in a]))
    whole = {name: np.concatenate(values) for name, values in sides.items()}
    a, b, spread = (whole.pop(name) for name in ("a", "b", "spread"))
    return ScoredAnnotation(a, b, whole, np.array(modality), spread)


def _both_sides(reward: Reward, a: list[Sample], b: list[Sample]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of a and of b, and the spread of their difference, as `ScoredAnnotation` has them."""
    if isinstance(reward, PairReward):
        values = against(reward, b)(a)
        return values, np.zeros_like(values), np.full_like(values, np.nan)
    sign, answers = 1 if reward.higher_is_better else -1, [reward.score(side) for side in (a, b)]
    spreads = [np.full(answer.values.shape, np.nan) if answer.spread is None else answer.spread.double().numpy()
               for answer in answers]
    return sign * answers[0].values.numpy(), sign * answers[1].values.numpy(), np.hypot(*spreads)


def against(reward: Reward, b: list[Sample]) -> Callable[[list[Sample]], np.ndarray]:
    """What gives samples their values [n, D], larger being better: the reward's own, or log-odds of beating `b`."""
    if not isinstance(reward, PairReward):
        sign = 1 if reward.higher_is_better else -1
        return lambda a: sign * reward.score(a).values.numpy()

    def compared(a: list[Sample]) -> np.ndarray:
        same = [i for i, (one, other) in enumerate(zip(a, b, strict=True)) if one.prompt == other.prompt]
        answers = dict(zip(same, reward.compare([(a[i], b[i]) for i in same]), strict=True))
        other_prompt = Failure("the two sides have different prompts")
        return log_odds([answers.get(i, other_prompt) for i in range(len(a))])[:, None].numpy()

    return compared


def column_for(reward: Reward, dimension: str) -> int:
    """The reward's dimension of that name, else its first one (which the report then names)."""
    return reward.dimensions.index(dimension) if dimension in reward.dimensions else 0


def report_dimension(reward: Reward, dimension: str, items: list[Annotation],
                     scored: ScoredAnnotation) -> DimensionReport | None:
    """Figures of one labelled dimension, or None when nothing is labelled in it."""
    column = column_for(reward, dimension)
    margins = scored.a[:, column] - scored.b[:, column]
    labelled = np.array([dimension in item.outcome for item in items])
    rows = np.flatnonzero(labelled & np.isfinite(margins))
    if not len(rows):
        return None
    outcomes = np.array([items[i].outcome[dimension] for i in rows])
    prompts = [items[i].prompt for i in rows]
    margins, modality = margins[rows], scored.modality[rows]
    kinds = np.array([items[i].kind for i in rows])
    decided = outcomes != 0.5
    parts = {f"{name}s": modality == name for name in ("image", "video", "text") if (modality == name).any()}
    parts |= {kind: kinds == kind for kind in sorted(set(kinds[decided])) if kind}
    scale = np.asarray(getattr(reward, "logit_scale", None) or [1.0] * len(reward.dimensions))[column]
    robustness = []
    for name, values in scored.edits.items():
        change = values[rows, column] - scored.a[rows, column]
        known = decided & np.isfinite(change)
        if known.any():
            flipped = np.sign(margins + change)[known] != np.sign(margins)[known]
            typical = max(np.abs(margins[known]).mean(), 1e-12)
            robustness.append(Robustness(name, float(np.abs(change[known]).mean() / typical),
                                         clustered_mean(flipped.astype(float), np.array(prompts)[known])))
    with np.errstate(divide="ignore", invalid="ignore"):  # without a spread there is no second order
        surety = {"margin": np.abs(margins), "margin over spread": np.abs(margins) / scored.spread[rows, column]}
    groups = np.unique(prompts, return_inverse=True)[1]
    return DimensionReport(
        dimension, reward.dimensions[column], agreement(margins, outcomes, prompts),
        {name: agreement(margins[w], outcomes[w], [p for p, here in zip(prompts, w, strict=True) if here])
         for name, w in parts.items()},
        calibration(margins * scale, outcomes) if decided.any() else None, robustness, int(labelled.sum() - len(rows)),
        {name: abstention_of(correctness(margins, outcomes)[decided], each[decided], groups[decided])
         for name, each in surety.items() if decided.any() and np.isfinite(each[decided]).all()},
        reversals_of(margins, outcomes, [items[i] for i in rows]))


def abstention_of(correct: np.ndarray, surety: np.ndarray, groups: np.ndarray) -> Abstention:
    """Of pairs with whether each is told correctly, how sure the reward is, and its prompt."""
    half = np.argsort(-surety, kind="stable")[:(len(surety) + 1) // 2]
    return Abstention(risk_coverage(1 - correct, -surety), clustered_mean(correct[half], groups[half]))


def reversals_of(margins: np.ndarray, outcomes: np.ndarray, items: list[Annotation]) -> Reversals | None:
    """What contexts turn round; media are not looked at where there are none."""
    if len({item.context for item in items}) < 2:
        return None
    return reversals(margins, outcomes, [InContext(item.prompt, (item.a.digest(), item.b.digest()), item.context)
                                         for item in items])


def reward_report_json(reward: Reward, reports: dict[str, DimensionReport],
                       augmented: Sequence[AugmentedKind] = ()) -> dict:
    from dataclasses import asdict

    def abstention(report: DimensionReport) -> dict:
        return {by: {"curve": found.curve._asdict(), "surer_half": found.surer_half}
                for by, found in report.abstention.items()}

    return {"reward": reward.name, "dimensions": {name: asdict(report) | {"abstention": abstention(report)}
                                                  for name, report in reports.items()},
            **({"augmented": [asdict(each) for each in augmented]} if augmented else {})}


def summary_lines(reports: dict[str, DimensionReport]) -> list[str]:
    """The printed table: accuracy by dimension, modality and kind."""
    lines = [f"{'dimension':12} {'set':24} {'pairs':>6} {'accuracy':>9} {'95 % interval':>16} {'with ties':>10}"]
    for report in reports.values():
        for name, part in {"all": report.overall, **report.parts}.items():
            if part.accuracy is None:
                continue
            ties = "" if part.with_ties is None else f"{part.with_ties.value:.3f}"
            lines.append(f"{report.dimension:12} {name:24} {part.pairs:6} {part.accuracy.value:9.3f} "
                         f"{part.accuracy.low:7.3f} - {part.accuracy.high:.3f} {ties:>9}")
        scored = f"scored by {report.scored_by}, {report.not_scored} not scored"
        if report.calibration and report.overall.kendall_tau:
            scored += (f"; calibration error {report.calibration.error:.3f}, Kendall tau per prompt "
                       f"{report.overall.kendall_tau.value:+.3f}")
        lines.append(f"{report.dimension:12} {scored}")
        if turned := report.reversals:
            lines.append(f"{report.dimension:12} of {turned.couples} couples that contexts turn round, "
                         f"{turned.both.value:.3f} [{turned.both.low:.3f}, {turned.both.high:.3f}] are right under "
                         f"both (0 for a reward that is blind to them), {turned.single.value:.3f} label by label")
        for by, found in report.abstention.items():
            half, curve = found.surer_half, found.curve
            lines.append(f"{report.dimension:12} half with the largest {by}: accuracy {half.value:.3f} [{half.low:.3f}"
                         f", {half.high:.3f}]; mean of its errors over shares kept {curve.area:.3f}, without an order "
                         f"{curve.risk[-1]:.3f}")
    return lines
