"""SRPO: one model answers and revises, and learns both from pairs. Choi et al. 2024 (arXiv 2406.01660).

With rho(a | b) the log-ratio of answer a to a prompt in which answer b stands as the earlier try:

    L_revise   = (beta [rho(w|l) - rho(l|l)] - 1/2)^2 + (beta [rho(w|w) - rho(l|w)] - 1/2)^2
    L_generate = (beta [rho(w|l) - rho(l|w) + rho_w - rho_l] - 1)^2
    L          = (1 - a) L_generate + a L_revise

Both follow from the min-max game between the answering policy, which minimises, and the revising one, which maximises,
the chance that the revision is preferred, each with beta times its KL to the reference [derived; the mix is recalled].
Not Tencent's SRPO for images, which is another method.
"""

from dataclasses import dataclass

from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.objectives.language import LanguageBase, PairLogs, pair_report
from visalign.objectives.registry import register
from visalign.validation.ranges import Portion, Positive

REVISIONS = (("chosen", "rejected"), ("rejected", "rejected"), ("chosen", "chosen"), ("rejected", "chosen"))
"""Of each pair, (answer, earlier try); `PairLogs.revisions` holds their rho as `chosen_after_rejected` and so on."""


@register("language", "srpo")
@dataclass(frozen=True)
class SRPO(LanguageBase):
    """One model that answers and revises, from pairs.

    beta: strength of the pull towards the reference. revise_weight: a, the part of the reviser in the loss.
    """

    beta: Positive = 0.1
    revise_weight: Portion = 0.5

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rejected", "reference", "revision"})

    def __call__(self, logs: PairLogs) -> Outcome:
        revised = {f"{answer}_after_{earlier}": logs.revisions[f"{answer}_after_{earlier}"]
                   for answer, earlier in REVISIONS}
        better_after = {earlier: revised[f"chosen_after_{earlier}"] - revised[f"rejected_after_{earlier}"]
                        for earlier in ("rejected", "chosen")}
        revise = sum((self._excess(gap, 0.5) for gap in better_after.values()), 0.0)
        generate = self._excess(revised["chosen_after_rejected"] - revised["rejected_after_chosen"] + logs.h, 1.0)
        losses = (1 - self.revise_weight) * generate + self.revise_weight * revise
        report = pair_report(logs, self.beta * logs.h, self.beta * logs.rho_chosen, self.beta * logs.rho_rejected)
        return Outcome(logs.mean(losses), report | {
            "generate_loss": generate.detach(), "revise_loss": revise.detach(),
            "revise_accuracy": (better_after["rejected"] > 0).float()})

    def _excess(self, log_ratio: Tensor, target: float) -> Tensor:
        return (self.beta * log_ratio - target).square()
