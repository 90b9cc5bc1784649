"""Votes as data that training reads.

    OUT/comparisons.csv   path_A, path_B, prompt, Overall and every dimension voted in: A, B or same. `visalign train`
                          (data.path), `visalign reward train` and `visalign guide train` read it. Of edits also
                          source (several joined by @@), and what else was said of them.
    OUT/ROLLOUT.csv       prompt, a_seed, b_seed, choice, for matchups that came from `visalign votes draw`: what D3PO
                          learns from (rollout.votes)

    OUT/pairs.jsonl       of answers in place of comparisons.csv: prompt, chosen, rejected, as texts, for every matchup
                          that was decided; `visalign lm train` (data.path) reads it
    OUT/comparisons.jsonl prompt, a, b, as texts, Overall and every dimension voted in: a, b or tie; `visalign reward
                          eval` reads it

A matchup that several people voted on is one row, by majority; an even split, or a majority of ties, is a tie. With
`chance` a column says which share voted for the side that won Overall, ties half to each: the chance that the label is
right, for `visalign train`. With `per_voter` comparisons.csv has a row for every vote instead, and says in `user`
(hashed) whose it is.
"""

import csv
import io
import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from visalign.errors import UserError
from visalign.media.source_images import SEPARATOR
from visalign.storage.files import write_atomically
from visalign.storage.hashed_users import hashed_user
from visalign.votes.board import OVERALL, choice_in, dimensions_of
from visalign.votes.book import Matchup, Vote, VoteDatabase
from visalign.votes.style import ANSWER_SUFFIX

_LETTERS = {"a": "A", "b": "B", "tie": "same", None: ""}
_COLUMNS = {OVERALL: "Overall"}


@dataclass(frozen=True)
class Exported:
    """Files written, and how many matchups were decided, tied, and only skipped."""

    comparisons: Path
    rollouts: tuple[Path, ...]
    decided: int
    ties: int
    skipped: int


def export_votes(book: VoteDatabase, out: Path, per_voter: bool = False, chance: bool = False) -> Exported:
    """Write the tables, over earlier ones. Raises UserError when nothing was decided yet."""
    if per_voter and chance:
        raise UserError("votes export: --chance is how many agreed, and with --per-voter every row is one vote; choose "
                        "one of them")
    matchups = {matchup.id: matchup for matchup in book.matchups()}
    votes = [vote for vote in book.votes() if not matchups[vote.matchup].is_anchor]
    by_matchup: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_matchup[vote.matchup].append(vote)
    names = dimensions_of(votes)
    if any(matchups[number].a.file.endswith(ANSWER_SUFFIX) for number in by_matchup):
        return _export_answers(book, by_matchup, matchups, out, per_voter, chance)
    edited = list(dict.fromkeys(name for number in by_matchup for name in edit_columns(book, matchups[number], out)))
    counts, rows, drawn = Counter(), [], defaultdict(list)
    for number, given in by_matchup.items():
        matchup = matchups[number]
        overall = majority([choice_in(vote, OVERALL) for vote in given])
        counts[overall] += 1
        media = {"path_A": _relative(book, matchup.a.file, out), "path_B": _relative(book, matchup.b.file, out),
                 **{name: edit_columns(book, matchup, out).get(name, "") for name in edited}}
        for together in [[vote] for vote in given] if per_voter else [given]:
            choices = {name: majority([choice_in(vote, name) for vote in together]) for name in names}
            if any(choice is not None for choice in choices.values()):
                rows.append({**media, "prompt": matchup.prompt,
                             **{_COLUMNS.get(name, name): _LETTERS[choice] for name, choice in choices.items()},
                             **({"user": hashed_user(together[0].voter)} if per_voter else {}),
                             **({"chance": majority_share([choice_in(vote, OVERALL) for vote in given])}
                                if chance else {})})
        if "rollout" in matchup.settings and overall is not None:
            drawn[matchup.settings["rollout"]].append(_seeds(matchup, overall))
    if not counts["a"] + counts["b"]:
        raise UserError(f"votes {book.file}: no matchup is decided yet, so there is nothing to export")
    tables = {out / "comparisons.csv": rows}
    for name, each in drawn.items():
        tables[free_name(out / f"{Path(name).name}.csv", tables)] = each
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, each in tables.items():
            write_atomically(file, votes_csv(each))
    except OSError as error:
        raise UserError(f"votes export: {out} cannot be written ({error.strerror})") from None
    comparisons, *rollouts = tables
    return Exported(comparisons, tuple(rollouts), counts["a"] + counts["b"], counts["tie"], counts[None])


def _export_answers(book: VoteDatabase, by_matchup: dict[str, list[Vote]], matchups: dict[str, Matchup], out: Path,
                    per_voter: bool, chance: bool) -> Exported:
    """As `export_votes`, of matchups of texts."""
    names = dimensions_of([vote for votes in by_matchup.values() for vote in votes])
    counts, pairs, compared = Counter(), [], []
    for number, given in by_matchup.items():
        matchup = matchups[number]
        texts = {side: book.within(each.file).read_bytes().decode()
                 for side, each in (("a", matchup.a), ("b", matchup.b))}
        counts[majority([choice_in(vote, OVERALL) for vote in given])] += 1
        for together in [[vote] for vote in given] if per_voter else [given]:
            who = {"user": hashed_user(together[0].voter)} if per_voter else {}
            choices = {name: majority([choice_in(vote, name) for vote in together]) for name in names}
            if any(choice is not None for choice in choices.values()):
                compared.append({"prompt": matchup.prompt, **texts, **{_COLUMNS.get(name, name): choice
                                                                      for name, choice in choices.items()}, **who})
            if (won := choices[OVERALL]) in ("a", "b"):
                sure = {"chance": majority_share([choice_in(vote, OVERALL) for vote in given])} if chance else {}
                pairs.append({"prompt": matchup.prompt, "chosen": texts[won], "rejected": texts["ab".replace(won, "")],
                              **sure, **who})
    if not pairs:
        raise UserError(f"votes {book.file}: no matchup is decided yet, so there is nothing to export")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, rows in (("pairs.jsonl", pairs), ("comparisons.jsonl", compared)):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_atomically(out / name, lines.encode())
    except OSError as error:
        raise UserError(f"votes export: {out} cannot be written ({error.strerror})") from None
    return Exported(out / "pairs.jsonl", (), counts["a"] + counts["b"], counts["tie"], counts[None])


def edit_columns(book: VoteDatabase, matchup: Matchup, out: Path) -> dict[str, str]:
    """The columns of an edit: its source images and what else was said of it; {} of other matchups."""
    if not matchup.sources:
        return {}
    notes = {name: _relative(book, value, out) if name == "mask" else value for name, value in matchup.notes.items()}
    return {"source": SEPARATOR.join(_relative(book, file, out) for file in matchup.sources), **notes}


def free_name(file: Path, taken: Iterable[Path]) -> Path:
    """The name itself, or with a number: two rollouts may lie in folders of the same name."""
    names = itertools.chain([file], (file.with_stem(f"{file.stem}-{number}") for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def majority(choices: list[str | None]) -> str | None:
    """The side with more votes; `tie` for as many, or where most said so; None where nobody chose."""
    cast = Counter(choice for choice in choices if choice in ("a", "b", "tie"))
    if not cast:
        return None
    if cast["a"] == cast["b"] or cast["tie"] > cast["a"] + cast["b"]:
        return "tie"
    return "a" if cast["a"] > cast["b"] else "b"


def majority_share(choices: list[str | None]) -> float | None:
    """The share of those who chose that the majority's side has, ties half to each; None where no side has won."""
    side, cast = majority(choices), Counter(choices)
    if side not in ("a", "b"):
        return None
    return (cast[side] + cast["tie"] / 2) / (cast["a"] + cast["b"] + cast["tie"])


def _relative(book: VoteDatabase, file: str, out: Path) -> str:
    return os.path.relpath(book.within(file), out.resolve())


def _seeds(matchup: Matchup, choice: str) -> dict:
    return {"prompt": matchup.asked, "a_seed": matchup.a.seed, "b_seed": matchup.b.seed, "choice": choice}


def votes_csv(rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
