"""The base model's rewards, as `visalign score` wrote them, with which a combination standardises or centres."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from visalign.errors import UserError, nearest

GROUP = "group"
"""The column of a table of scores that tells prompts with their source images apart, where there are any."""


@dataclass(frozen=True)
class ReferenceScores:
    """Scores [n, C] of reference samples (larger is better) and their prompts; NaN rows are left out."""

    file: str
    columns: tuple[str, ...]
    values: Tensor
    prompts: tuple[str, ...]

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Over all samples, [C] each. Raises UserError where a column is constant."""
        values = self.values[self.values.isfinite().all(1)]
        if len(values) < 2:
            raise UserError(f"reference {self.file}: holds {len(values)} samples that every reward could score; at "
                            "least 2 are needed")
        std = values.std(0)
        for name, spread in zip(self.columns, std.tolist(), strict=True):
            if spread == 0:
                raise UserError(f"reference {self.file}: {name} is the same for all samples, so it cannot be "
                                "standardised; leave that reward out or use another reference set")
        return values.mean(0), std

    def of_prompt(self, prompt: str) -> Tensor | None:
        """Finite rows of one prompt, [m, C], or None."""
        rows = [i for i, each in enumerate(self.prompts) if each == prompt]
        values = self.values[rows]
        values = values[values.isfinite().all(1)]
        return values if len(values) else None


def read_reference(file: str, columns: tuple[str, ...], signs: Tensor) -> ReferenceScores:
    """The named columns of a scores table, times `signs` [C].

    Raises UserError naming the file or the missing column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"reference {file}: there is no such file; make it with `visalign score` on samples of the "
                        "base model")
    try:
        names = pq.read_schema(path).names
        for column in columns:
            if column not in names:
                scored = [name for name in names if "." in name]
                raise UserError(f"reference {file}: has no column {column}{nearest(column, scored)}")
        prompts = GROUP if GROUP in names else "prompt"
        table = pq.read_table(path, columns=[prompts, *columns])
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"reference {file}: not a readable parquet file ({reason})") from None
    values = [[float("nan") if v is None else v for v in table.column(c).to_pylist()] for c in columns]
    return ReferenceScores(file, columns, torch.tensor(values, dtype=torch.float32).T * signs,
                           tuple(p or "" for p in table.column(prompts).to_pylist()))
