"""Votes on the generator's own pictures, by seed: what offline D3PO learns from.

A table (JSONL, CSV or parquet) with `prompt, a_seed, b_seed, choice`; choice is a, b, or tie or empty (not used).
`visalign rollout` draws the pictures and writes the table with empty choices.
"""

from dataclasses import dataclass

from visalign.data.rows import table_rows
from visalign.errors import UserError

CHOICES = ("a", "b", "tie", "")


@dataclass(frozen=True)
class Vote:
    """Two pictures of one prompt by their seeds, the preferred one first."""

    prompt: str
    chosen_seed: int
    rejected_seed: int


def read_votes(path: str) -> list[Vote]:
    """The decided votes of a table.

    Raises UserError naming the row that is broken, or when there is no decided vote.
    """
    votes = []
    for where, row in table_rows(path, "train"):
        if "__broken__" in row:
            raise UserError(row["__broken__"])
        choice = str(row.get("choice") or "").strip().lower()
        if choice not in CHOICES:
            raise UserError(f"{where}: choice is '{choice}'; allowed are a, b, tie and nothing")
        try:
            prompt, seeds = str(row["prompt"]), {side: int(row[f"{side}_seed"]) for side in "ab"}
        except KeyError as error:
            raise UserError(f"{where}: column {error.args[0]} is missing; a vote has prompt, a_seed, b_seed and "
                            "choice") from None
        except (TypeError, ValueError):
            raise UserError(f"{where}: a_seed and b_seed must be whole numbers") from None
        if choice in ("a", "b"):
            other = "b" if choice == "a" else "a"
            votes.append(Vote(prompt, seeds[choice], seeds[other]))
    if not votes:
        raise UserError(f"votes {path}: no row has a choice of a or b yet")
    return votes
