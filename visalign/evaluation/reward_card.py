"""What a reward knows and what it does not: all that was measured of it, and what follows for its use."""

import math
from dataclasses import dataclass, field

from visalign.evaluation.reward_eval import DimensionReport
from visalign.evaluators.reward_distance import RewardDistances
from visalign.evaluators.split_accuracy import LEAST_PAIRS, SplitAccuracy
from visalign.evaluators.statistics import Estimate

SURE, WRONG_GAP, UNCALIBRATED, UNSTEADY, LED, ALIKE = 0.7, 0.1, 0.1, 0.05, 0.2, 0.3
"""Accuracy from which an order is called reliable; gap of split accuracies, calibration error, share of orders that
harmless edits turn, and share that attacks turn, above which it is said; distance below which rewards are called alike.
"""


@dataclass(frozen=True)
class AttackedKind:
    """Of one kind of attack: the share of orders that it turned."""

    images: int
    turned: Estimate


@dataclass(frozen=True)
class RewardCard:
    """reports {dimension: ...}. splits {dimension: {feature: ...}}. attacks {dimension: {kind: ...}}: by changes too
    small to see. distances: from other rewards. not_measured: what is missing, and why, a sentence each."""

    reward: str
    data: str
    pairs: int
    prompts: int
    reports: dict[str, DimensionReport]
    splits: dict[str, dict[str, SplitAccuracy]] = field(default_factory=dict)
    attacks: dict[str, dict[str, AttackedKind]] = field(default_factory=dict)
    distances: RewardDistances | None = None
    not_measured: tuple[str, ...] = ()

    @property
    def use(self) -> list[str]:
        """What it may be used for, a sentence each."""
        found = []
        for name, report in self.reports.items():
            accuracy = report.overall.accuracy
            if accuracy and math.isfinite(accuracy.low) and accuracy.low > 0.5:
                how = "" if accuracy.low >= SURE else "with care and many samples, "
                found.append(f"{how}to order samples by {name}: {shown_share(accuracy)} of {report.overall.pairs} "
                             "labelled pairs are told rightly")
        return found

    @property
    def avoid(self) -> list[str]:
        """What it may not be used for, or not alone, a sentence each."""
        found = []
        for name, report in self.reports.items():
            accuracy = report.overall.accuracy
            if accuracy is None or not accuracy.low > 0.5:
                found.append(f"{name}: " + ("it has no decided pair" if accuracy is None else
                                            f"right in {shown_share(accuracy)}, not told from chance"))
                continue
            found += [f"{name} of {kind}: right in {shown_share(part.accuracy)} of {part.pairs} pairs, not told from "
                      "chance" for kind, part in report.parts.items()
                      if part.pairs >= LEAST_PAIRS and not part.accuracy.low > 0.5]
            found += [f"{name} where {edit.edit} may have happened: that turns {100 * edit.flipped.value:.0f} % of the "
                      "orders"
                      for edit in report.robustness if edit.flipped.value > UNSTEADY]
            if report.calibration and report.calibration.error > UNCALIBRATED:
                found.append(f"probabilities of {name}: its margins are off by {report.calibration.error:.2f} on "
                             "average")
            found += [f"{name} where samples differ in {feature.replace('_', ' ')}: right in "
                      f"{100 * split.more.value:.0f} % where the better one has more of it, in "
                      f"{100 * split.less.value:.0f} % where it has less"
                      for feature, split in self.splits.get(name, {}).items()
                      if split.gap.low > WRONG_GAP or split.gap.high < -WRONG_GAP]
            led = [f"{shown_share(each.turned)} ({kind})" for kind, each in self.attacks.get(name, {}).items()
                   if each.turned.low > LED]
            if led:
                found.append(f"following its gradient of {name} without another reward beside it: changes too small to "
                             f"see turned {' and '.join(led)} of the orders")
        if self.distances:
            near = [other for (a, b), value in self.distances.between.items() if value.high < ALIKE
                    for other in (a, b) if self.reward in (a.split(".")[0], b.split(".")[0])
                    and other.split(".")[0] != self.reward]
            found += [f"a second opinion beside {other}: the two are one opinion told twice" for other in
                      dict.fromkeys(near)]
        return found

    @property
    def unknown(self) -> list[str]:
        """What is not known, a sentence each."""
        few = [f"{name} of {kind}" for name, report in self.reports.items() for kind, part in report.parts.items()
               if 0 < part.pairs < LEAST_PAIRS]
        return [*self.not_measured, *([f"kinds with fewer than {LEAST_PAIRS} decided pairs: {', '.join(few)}"] if few
                                      else [])]

    @property
    def sentence(self) -> str:
        """The card in a sentence."""
        use = "; ".join(self.use) or "nothing that was measured here"
        return f"Use it {use}. " + (f"Do not use it for {'; '.join(self.avoid)}." if self.avoid else
                                    "Nothing that was measured speaks against it.")


def shown_share(share: Estimate) -> str:
    interval = f" [{100 * share.low:.0f}, {100 * share.high:.0f}]" if math.isfinite(share.low) else ""
    return f"{100 * share.value:.0f} %{interval}"
