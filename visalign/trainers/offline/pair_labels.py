"""The labels of `dynamic_labels` in a run: one for each pair, the same on every process, and part of a checkpoint."""

import torch
from accelerate import Accelerator
from torch import Tensor

from visalign.objectives.links import LabelTable
from visalign.trainers.offline.encoded_pairs import EncodedPair


class PairLabels:
    """Equal pairs share a label. rate: g of `dynamic_labels`; with 0 every label is 1 and nothing is kept."""

    def __init__(self, rate: float, items: list[EncodedPair], accelerator: Accelerator):
        self.table, self.accelerator = LabelTable(rate), accelerator
        self.rows = {item: row for row, item in enumerate(dict.fromkeys(items))} if rate else {}
        self._visits: list[Tensor] = []

    @property
    def kept(self) -> dict[str, LabelTable]:
        """What a checkpoint keeps."""
        return {"labels": self.table} if self.rows else {}

    def of(self, items: list[EncodedPair]) -> Tensor | float:
        """[B] on the accelerator's device."""
        if not self.rows:
            return 1.0
        return self.table.of([self.rows[item] for item in items]).to(self.accelerator.device)

    def visited(self, items: list[EncodedPair], metrics: dict[str, Tensor]) -> None:
        """Remember the margins [B] of a micro-batch until the step is done, since its labels are used until then."""
        if self.rows:
            rows = torch.tensor([self.rows[item] for item in items], dtype=torch.float64)
            self._visits.append(torch.stack([rows, metrics["margin"].double().cpu()], 1).to(self.accelerator.device))

    def after_step(self) -> None:
        """Move the labels by all processes' visits, in the data's order."""
        for visits in self._visits:
            rows, z = self.accelerator.gather(visits).cpu().unbind(1)
            self.table.visited(rows.long().tolist(), z)
        self._visits.clear()
