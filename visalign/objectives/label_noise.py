"""Losses that allow for flipped labels, of reward models and of policies alike.

With l the loss of the label as it stands, l' that of the opposite label, e the share of flipped labels:

    label_smoothing  (cDPO)     (1 - e) l + e l'
    flip_rate        (rDPO)     ((1 - e) l - e l') / (1 - 2 e), whose mean over flips is the loss of the clean label
    forward_rate     (forward)  -log( (1 - e) exp(-l) + e exp(-l') ), the likelihood of the label through the flips

The third lets go of a label that the model firmly contradicts: with l = -log s(m) its slope in m is s(m) - (1 - q),
where q = e s(-m) / ((1 - e) s(m) + e s(-m)) is the chance that this label is flipped, and falls to 0 on both sides.

cDPO and rDPO: Chowdhury et al. 2024 (arXiv 2403.00409). Forward correction: Patrini et al. 2017 (arXiv 1609.03683).
With `forward_rate: learn` the share is learnt beside the model, e = s(a), with a prior Beta(2, 18).
Differs from the papers in: forward correction there is of classes; its form for pairs and the learnt e are derived.
Recipe: configs/reward_model/forward.yaml.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PRIOR = (2.0, 18.0)
"""Beta prior of a learnt e, in flipped and in right labels."""
FLIP_STEP = 0.1
"""By which a = log(e / (1 - e)) follows its gradient, once an update."""
MOST_FLIPPED = 0.49
"""Of a learnt e: beyond one half all labels would mean their opposite."""


@dataclass(frozen=True)
class LabelNoise:
    """What is assumed of flipped labels, each 0 for none. forward_rate `learn`: e is what a batch brings."""

    label_smoothing: float = 0.0
    flip_rate: float = 0.0
    forward_rate: float | Literal["learn"] = 0.0

    def check(self) -> None:
        """Raise ValueError when several are set."""
        given = [name for name, rate in vars(self).items() if rate]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} model the same label noise: set one of them")

    def __bool__(self) -> bool:
        return any(vars(self).values())

    @property
    def learns(self) -> bool:
        return self.forward_rate == "learn"

    def loss(self, agree: Tensor, disagree: Tensor, flip_logit: Tensor | None = None) -> Tensor:
        """The loss given what it would be for the label (`agree`) and for the opposite label (`disagree`).

        flip_logit: a of a learnt e = s(a). Raises ValueError where it is needed and missing.
        """
        if self.forward_rate:
            right, flipped = self._logs(flip_logit)
            return -torch.logaddexp(right - agree, flipped - disagree)
        if self.flip_rate:
            return ((1 - self.flip_rate) * agree - self.flip_rate * disagree) / (1 - 2 * self.flip_rate)
        return (1 - self.label_smoothing) * agree + self.label_smoothing * disagree

    def _logs(self, flip_logit: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        """log(1 - e) and log e."""
        if not isinstance(self.forward_rate, str):
            return math.log1p(-self.forward_rate), math.log(self.forward_rate)
        if flip_logit is None:
            raise ValueError("forward_rate learn needs the rate that the run has learnt (flip_logit)")
        return F.logsigmoid(-flip_logit), F.logsigmoid(flip_logit)


class FlipRate:
    """e = s(a) of `forward_rate: learn`: the same on every process, and part of a checkpoint.

    labels: how many the data hold, against which the prior weighs. a follows the slope of the posterior, which is
    (mean of q) - e from the labels and (2 - 20 e) / labels from the prior, as a density of a: without labels e is its
    mean, 0.1.
    """

    def __init__(self, labels: int, device: torch.device | str = "cpu"):
        flipped, right = PRIOR
        self.labels = labels
        self._put(torch.tensor(math.log(flipped / right), device=device))

    @property
    def rate(self) -> float:
        return self.logit.detach().sigmoid().item()

    def slope(self, loss: Tensor) -> Tensor:
        """d loss / d a of a mean loss over labels, a scalar; the loss keeps its graph."""
        return torch.autograd.grad(loss, self.logit, retain_graph=True)[0]

    @torch.no_grad()
    def follow(self, slope: Tensor) -> None:
        """Move a against the slope of the loss over all processes, and towards the prior."""
        flipped, right = PRIOR
        prior = (flipped - (flipped + right) * self.logit.sigmoid()) / self.labels
        self._put((self.logit + FLIP_STEP * (prior - slope)).clamp(max=math.log(MOST_FLIPPED / (1 - MOST_FLIPPED))))

    def _put(self, logit: Tensor) -> None:
        # a new tensor, since a loss that was computed with the old one may not have been learnt from yet
        self.logit = logit.detach().requires_grad_()

    def state_dict(self) -> dict[str, Tensor]:
        return {"flip_logit": self.logit.detach().cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._put(state["flip_logit"].to(self.logit.device))
