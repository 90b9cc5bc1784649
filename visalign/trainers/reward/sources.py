"""Several sources of annotations, weighed so that none works against the others: MORE (Zeng et al. 2023, arXiv
2312.07401; github.com/dunzeng/MORE).

    g_k    gradient of source k's loss with respect to the head alone, as it is (`none`), to unit length (`l2`), or over
           the loss (`loss`);  g_k <- memory g_k + (1 - memory) now
    w      = argmin over the simplex of |sum_k w_k g_k|^2            (objectives/balance.py)
    loss   = sum_k w_k mean over source k's pairs in the batch

With l2 and two sources all norms are equal, so both weights are one half: that is refused.

Differs from the paper in: the quadratic problem is solved exactly and not by Frank-Wolfe; the loss is not multiplied by
the number of sources; a batch holds what the order of training brings, and weighs the sources that are in it.
Recipe: configs/reward_model/sources.yaml.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from visalign.config.reward import BalanceSettings
from visalign.objectives.balance import least_norm
from visalign.objectives.reward_model import Comparison, Filter, RewardModelLoss


def pairs_at(batch: Comparison, rows: Tensor) -> Comparison:
    """The pairs of a batch whose places these are, without filters."""
    pairs = {name: getattr(batch, name)[rows] for name in ("a", "b", "outcome", "strength", "rating_a", "rating_b")}
    doubt = None if batch.doubt is None else batch.doubt[rows]
    return batch._replace(**pairs, doubt=doubt, filters=(),
                          across=lambda tensor: tensor, together=lambda tensor: tensor)


class SourceBalance:
    """Of a run; does nothing without settings.

    names: of the sources, in the order of their numbers. kept: what a checkpoint keeps of it.
    """

    def __init__(self, settings: BalanceSettings | None, names: tuple[str, ...], head: nn.Module,
                 accelerator: Accelerator):
        self.settings, self.names, self.accelerator = settings, names, accelerator
        self.kept: dict[str, Any] = {}
        if settings is None:
            return
        self.kept = {"balance": self}
        self.parameters = [p for p in head.parameters() if p.requires_grad]
        size = sum(p.numel() for p in self.parameters)
        self.gradients = torch.zeros(len(names), size, device=accelerator.device)
        self.seen = torch.zeros(len(names), dtype=torch.bool)
        self._weights = torch.zeros(len(names), dtype=torch.float64)

    def filters(self, sources: Tensor, batch: Comparison, objective: RewardModelLoss) -> tuple[Filter, ...]:
        """What weighs a batch's pairs, whose sources [B] these are; its graph stays. () without settings."""
        if self.settings is None:
            return ()
        counts = torch.zeros(len(self.names), dtype=torch.float64, device=self.gradients.device)
        now, losses = torch.zeros_like(self.gradients), torch.zeros_like(counts)
        for k in sources.unique().tolist():
            rows = (sources == k).nonzero().flatten().to(batch.a.device)
            loss = objective(pairs_at(batch, rows)).loss
            grads = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            flat = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, grads, strict=True)]
            now[k] = torch.cat([g.flatten().float() for g in flat]) * len(rows)
            losses[k], counts[k] = loss.detach().double() * len(rows), len(rows)
        now, losses, counts = (self.accelerator.reduce(each, "sum") for each in (now, losses, counts))
        here = (counts > 0).nonzero().flatten()
        self._learn(here, now[here] / counts[here, None].float(), losses[here] / counts[here])
        # one over its pairs, so that the weighted mean over the batch is the weighted sum of the sources' means
        of_pair = (self._weights.to(counts) / counts.clamp(min=1))[sources.to(counts.device)]
        return (lambda each: of_pair.to(each)[:, None].expand(each.shape[:2]),)

    def _learn(self, here: Tensor, now: Tensor, losses: Tensor) -> None:
        """The weights of the sources that are in the batch."""
        if self.settings.normalise == "loss":
            now = now / losses.clamp(min=1e-8)[:, None].float()
        elif self.settings.normalise == "l2":
            now = now / now.norm(dim=1, keepdim=True).clamp(min=1e-12)
        stays = torch.where(self.seen[here.cpu()], self.settings.memory, 0.0).to(now)[:, None]
        self.gradients[here] = stays * self.gradients[here] + (1 - stays) * now
        self.seen[here.cpu()] = True
        chosen = self.gradients[here].double()
        self._weights.zero_()
        self._weights[here.cpu()] = least_norm((chosen @ chosen.T).cpu())

    def after_step(self) -> dict[str, float]:
        """What is logged: the weights of the newest batch."""
        if self.settings is None:
            return {}
        return {f"source/{name}": weight for name, weight in zip(self.names, self._weights.tolist(), strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {"gradients": self.gradients, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gradients, self.seen = state["gradients"].to(self.gradients.device), state["seen"]
