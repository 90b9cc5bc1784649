"""Votes as a table of arenas reads: one parquet row a vote, as in LMArena's published conversations, so that analyses
written for those run on it.

    question_id, model_a, model_b   model_a was shown on the left
    winner                          model_a, model_b or tie
    judge                           who voted, hashed (LLM arenas call it so)
    turn, anony, language, tstamp   1, True, empty (unknown), seconds since 1970
    prompt, seconds, DIMENSION      ours: the prompt, how long they looked, and the winner in each dimension voted in
    STATISTIC_a, STATISTIC_b        style of both media, where it was measured (style.py)
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from visalign.data.rows import hashed_user
from visalign.errors import UserError
from visalign.votes.board import OVERALL, dimensions_of, votes_in
from visalign.votes.book import Matchup, Vote, VoteDatabase


def export_arena(book: VoteDatabase, file: Path) -> int:
    """Write the table over an earlier one; how many rows. Anchors, skipped votes and models against themselves are left
    out. Raises UserError when no vote is left or the file cannot be written."""
    matchups = {matchup.id: matchup for matchup in book.matchups() if not matchup.is_anchor and matchup.between_models}
    votes = [vote for vote, _ in votes_in(book, matchups, OVERALL)]
    if not votes:
        raise UserError(f"votes {book.file}: there is no vote between two models yet, so there is nothing to export")
    names, looks = dimensions_of(votes)[1:], book.looks()
    measured = sorted({name for look in looks.values() for name in look})
    rows = [_row(vote, matchups[vote.matchup], names, measured, looks) for vote in votes]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), file)
    except OSError as error:
        raise UserError(f"votes export: {file} cannot be written ({error.strerror or error})") from None
    return len(rows)


def _row(vote: Vote, matchup: Matchup, dimensions: list[str], measured: list[str],
         looks: dict[str, dict[str, float]]) -> dict:
    left, right = (matchup.a, matchup.b) if vote.on_left == "a" else (matchup.b, matchup.a)

    def winner(choice: str | None) -> str | None:
        return {"tie": "tie", vote.on_left: "model_a"}.get(choice, "model_b") if choice in ("a", "b", "tie") else None

    return {"question_id": matchup.id, "model_a": left.model, "model_b": right.model, "winner": winner(vote.choice),
            "judge": hashed_user(vote.voter),  # what tables of LLM arenas call who voted
            "turn": 1, "anony": True, "language": "", "tstamp": vote.time, "prompt": matchup.prompt,
            "seconds": vote.seconds, **{name: winner(vote.dimensions.get(name)) for name in dimensions},
            **{f"{name}_{side}": looks.get(each.file, {}).get(name) for name in measured
               for side, each in (("a", left), ("b", right))}}
