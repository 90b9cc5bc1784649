"""Votes on the generator's own images, by seed, from which offline D3PO learns.

A table (JSONL, CSV or parquet) with `prompt, a_seed, b_seed, choice`; choice is a, b, or tie or empty (not used).
`visalign votes draw` draws the images and writes the table with empty choices.
"""

from dataclasses import dataclass

from visalign.data.metadata import seed_of
from visalign.data.rows import check_row, plain_names, row_prompt, shortened, table_rows
from visalign.errors import UserError

SEED_CHOICES = ("a", "b", "tie", "")
SEED_COLUMNS = frozenset(("prompt", "a_seed", "b_seed", "choice"))


@dataclass(frozen=True)
class SeedPreference:
    """Two images of one prompt by their seeds, the preferred one first."""

    prompt: str
    chosen_seed: int
    rejected_seed: int


def read_seed_preferences(path: str) -> list[SeedPreference]:
    """The decided votes of a table.

    Raises UserError naming the row that is broken, or when there is no decided vote.
    """
    votes = []
    for where, row in table_rows(path):
        check_row(row)
        row = plain_names(row, SEED_COLUMNS)
        choice = str(row.get("choice") or "").strip().lower()
        if choice not in SEED_CHOICES:
            raise UserError(f"{where}: choice is '{shortened(choice)}'; allowed are a, b, tie and empty")
        missing = next((name for name in ("prompt", "a_seed", "b_seed") if row.get(name) is None), None)
        if missing:
            raise UserError(f"{where}: column {missing} is missing; a vote has prompt, a_seed, b_seed and choice (it "
                            f"has {', '.join(row) or 'nothing'})")
        prompt, seeds = row_prompt(row, "prompt", where), {side: seed_of(row[f"{side}_seed"]) for side in "ab"}
        if any(seed is None or seed < 0 for seed in seeds.values()):
            raise UserError(f"{where}: a_seed and b_seed must be whole numbers from 0 to 2^64 - 1")
        if choice in ("a", "b"):
            other = "b" if choice == "a" else "a"
            if seeds["a"] == seeds["b"]:
                raise UserError(f"{where}: a_seed and b_seed are the same, so there is no preference")
            votes.append(SeedPreference(prompt, seeds[choice], seeds[other]))
    if not votes:
        raise UserError(f"votes {path}: no row has a choice of a or b yet")
    return votes
