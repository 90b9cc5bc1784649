"""The vote database: matchups of two media of one prompt, and people's votes, in an SQLite file.

A vote is on disk when `vote` returns, and survives a killed server. Rows are only added; a vote taken back stays,
marked as undone. Several threads and processes may write at once.
"""

import json
import re
import secrets
import sqlite3
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from visalign.errors import UserError

VOTE_CHOICES = ("a", "b", "tie", "skip")
ANCHOR = "anchor-"
"""How the ids of planted matchups begin (anchors.py), which count for no model."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS contests (
    id TEXT PRIMARY KEY, prompt TEXT NOT NULL, a_model TEXT NOT NULL, b_model TEXT NOT NULL,
    a_seed INTEGER, b_seed INTEGER, a_file TEXT NOT NULL, b_file TEXT NOT NULL,
    settings TEXT NOT NULL, made REAL NOT NULL);
CREATE TABLE IF NOT EXISTS ballots (
    id TEXT PRIMARY KEY, contest TEXT NOT NULL REFERENCES contests(id), voter TEXT NOT NULL, on_left TEXT NOT NULL,
    shown REAL NOT NULL);
CREATE TABLE IF NOT EXISTS votes (
    ballot TEXT PRIMARY KEY, contest TEXT NOT NULL REFERENCES contests(id), voter TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('a', 'b', 'tie', 'skip')), on_left TEXT NOT NULL,
    dimensions TEXT NOT NULL, seconds REAL, time REAL NOT NULL, undone REAL);
CREATE UNIQUE INDEX IF NOT EXISTS one_vote ON votes (contest, voter) WHERE undone IS NULL;
CREATE INDEX IF NOT EXISTS ballots_of ON ballots (contest, voter);
CREATE TABLE IF NOT EXISTS marks (
    file TEXT NOT NULL, judge TEXT NOT NULL, value REAL, PRIMARY KEY (file, judge));
CREATE TABLE IF NOT EXISTS looks (
    file TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (file, name));
"""


_COLUMNS = {name: set(re.findall(r"(?:^|,)\s*(\w+) (?:TEXT|REAL|INTEGER)", columns))
            for name, columns in re.findall(r"TABLE IF NOT EXISTS (\w+) \((.*?)\);", _SCHEMA, re.DOTALL)}
"""What each table must have."""
_OPEN = (f"c.id NOT LIKE '{ANCHOR}%' AND NOT EXISTS (SELECT 1 FROM votes v WHERE v.contest = c.id AND v.voter = ? AND "
         "v.undone IS NULL)")


@dataclass(frozen=True)
class MatchupSide:
    """One medium of a matchup: the model that made it, from which seed, and its file in the book's folder."""

    model: str
    seed: int | None
    file: str


@dataclass(frozen=True)
class Matchup:
    """Two media of one prompt. settings: how they were made; `rollout` in it names the folder of `votes draw`. Of edits
    also `sources`, files of the source images in the book's folder; `notes`, what else was said (EDIT_NOTES); `asked`,
    the prompt as the models were given it."""

    prompt: str
    a: MatchupSide
    b: MatchupSide
    settings: dict = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def sources(self) -> tuple[str, ...]:
        """Files of its source images in the book's folder."""
        return tuple(self.settings.get("sources", ()))

    @property
    def notes(self) -> dict[str, str]:
        return self.settings.get("notes", {})

    @property
    def between_models(self) -> bool:
        """Whether two models met, not one with itself."""
        return self.a.model != self.b.model

    @property
    def is_anchor(self) -> bool:
        """Whether it was planted to see how reliable voters are (anchors.py)."""
        return self.id.startswith(ANCHOR)

    @property
    def asked(self) -> str:
        """The prompt as the models were given it, with the source images of edits."""
        return self.settings.get("asked", self.prompt)


@dataclass(frozen=True)
class Ballot:
    """One showing of a matchup to a voter; on_left says which side (`a` or `b`) is on the left."""

    matchup: Matchup
    voter: str
    on_left: str
    id: str

    @property
    def sides(self) -> tuple[MatchupSide, MatchupSide]:
        """Left and right."""
        both = (self.matchup.a, self.matchup.b)
        return both if self.on_left == "a" else both[::-1]

    def choice(self, said: str) -> str:
        """`left` and `right` as the matchup's `a` and `b`; `tie` and `skip` as they are."""
        other = "b" if self.on_left == "a" else "a"
        return {"left": self.on_left, "right": other}.get(said, said)


@dataclass(frozen=True)
class Vote:
    """One voter's vote on a matchup: `a`, `b`, `tie` or `skip`, overall and in dimensions.

    on_left: which side was shown on the left. ballot: the id of this showing of the matchup.
    """

    matchup: str
    voter: str
    choice: str
    on_left: str
    dimensions: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    ballot: str = field(default_factory=lambda: uuid.uuid4().hex)
    time: float = field(default_factory=time.time)


class VoteDatabase:
    """`folder` holds votes.sqlite and media/. Raises UserError naming a file that is not a vote database."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        self.file, self.media = self.folder / "votes.sqlite", self.folder / "media"
        self._local = threading.local()
        try:
            self.media.mkdir(parents=True, exist_ok=True)
            self._check(self._connection())
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"votes {self.file}: cannot be used as a vote database ({error})") from None

    def _connection(self) -> sqlite3.Connection:
        """One connection a thread, as SQLite asks."""
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self.file, timeout=60, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(_SCHEMA)
            self._local.connection = connection
        return self._local.connection

    def _check(self, connection: sqlite3.Connection) -> None:
        """Raise UserError when its tables are not those that this version writes."""
        for table, wanted in _COLUMNS.items():
            there = {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}
            if missing := sorted(wanted - there):
                raise UserError(f"votes {self.file}: its table {table} has no column {missing[0]}; another program or "
                                "version wrote it, so choose another folder")

    def _read(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """Rows. Raises UserError when the file is damaged."""
        try:
            return self._connection().execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise UserError(f"votes {self.file}: cannot be read ({error})") from None

    def _write(self, statement: str, values: tuple) -> int:
        """Number of rows it changed, on disk. Raises UserError when it cannot be kept."""
        try:
            return self._connection().execute(statement, values).rowcount
        except (sqlite3.Error, OverflowError, UnicodeError) as error:  # a seed beyond 2^63, half a letter
            raise UserError(f"votes {self.file}: could not be written ({error})") from None

    def add(self, matchup: Matchup) -> None:
        """Add a matchup whose media are in the folder already; one that is known stays as it is."""
        a, b = matchup.a, matchup.b
        self._write("INSERT OR IGNORE INTO contests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (matchup.id, matchup.prompt, a.model, b.model, a.seed, b.seed, a.file, b.file,
                     json.dumps(matchup.settings), time.time()))

    def matchups(self) -> list[Matchup]:
        """All of them, oldest first."""
        return [self._matchup(row) for row in self._read("SELECT * FROM contests ORDER BY made, id")]

    def matchup(self, number: str) -> Matchup:
        """One by its id. Raises UserError when there is none."""
        rows = self._read("SELECT * FROM contests WHERE id = ?", number)
        if not rows:
            raise UserError(f"votes {self.file}: there is no matchup {number}")
        return self._matchup(rows[0])

    def open_for(self, voter: str, count: int, but: tuple[str, ...] = (),
                 between: frozenset[str] | None = None) -> list[Matchup]:
        """Matchups that a voter has not voted on, those with the fewest votes first, otherwise at random; no anchors.

        but: ids to leave out. between: only matchups of these models.
        """
        rows = self._read(
            "SELECT c.*, (SELECT COUNT(*) FROM votes v WHERE v.contest = c.id AND v.undone IS NULL) AS votes "
            f"FROM contests c WHERE {_OPEN} ORDER BY votes, random()", voter)
        found = (self._matchup(row) for row in rows)
        wanted = (matchup for matchup in found if matchup.id not in but
                  and (between is None or {matchup.a.model, matchup.b.model} <= between))
        return [matchup for matchup, _ in zip(wanted, range(count), strict=False)]

    def met(self) -> list[tuple[str, str, str, int]]:
        """(model of side a, of side b, choice, how many votes said so), of votes that count, without anchors."""
        return [tuple(row) for row in self._read(
            "SELECT c.a_model, c.b_model, v.choice, COUNT(*) FROM votes v JOIN contests c ON c.id = v.contest WHERE "
            f"v.undone IS NULL AND c.id NOT LIKE '{ANCHOR}%' GROUP BY c.a_model, c.b_model, v.choice")]

    def may_meet(self, voter: str) -> set[frozenset[str]]:
        """Models of the matchups that are open for a voter (`open_for`)."""
        return {frozenset(row) for row in self._read(
            f"SELECT DISTINCT c.a_model, c.b_model FROM contests c WHERE {_OPEN}", voter)}

    def show(self, matchup: Matchup, voter: str, mark: str = "") -> Ballot:
        """A ballot with its sides in random order; it outlives the server, so that a page may hold on to its id.

        mark: of the page that it is for, in which its id ends.
        """
        ballot = Ballot(matchup, voter, secrets.choice("ab"), uuid.uuid4().hex + mark)
        self._write("INSERT INTO ballots VALUES (?, ?, ?, ?, ?)",
                    (ballot.id, matchup.id, voter, ballot.on_left, time.time()))
        return ballot

    def ballot(self, number: str) -> Ballot | None:
        """One that was shown, by its id."""
        rows = self._read("SELECT * FROM ballots WHERE id = ?", number)
        return self._ballot(rows[0]) if rows else None

    def shown(self, matchup: str, voter: str, mark: str = "") -> Ballot | None:
        """One that this page was shown and has not used, so that asking again and again fills no disk."""
        rows = self._read("SELECT * FROM ballots b WHERE contest = ? AND voter = ? AND substr(id, 33) = ? AND NOT "
                          "EXISTS (SELECT 1 FROM votes v WHERE v.ballot = b.id) LIMIT 1", matchup, voter, mark)
        return self._ballot(rows[0]) if rows else None

    def _ballot(self, row: sqlite3.Row) -> Ballot:
        return Ballot(self.matchup(row["contest"]), row["voter"], row["on_left"], row["id"])

    def vote(self, vote: Vote) -> bool:
        """Keep a vote; False, and nothing is changed, when this ballot or another of the voter's is in already.

        Raises UserError for an unknown choice or a matchup that does not exist.
        """
        for where, choice in {"choice": vote.choice, **vote.dimensions}.items():
            if choice not in VOTE_CHOICES:
                raise UserError(f"vote: {where} is '{choice}' (allowed: {', '.join(VOTE_CHOICES)})")
        self.matchup(vote.matchup)
        return self._write(
            "INSERT OR IGNORE INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (vote.ballot, vote.matchup, vote.voter, vote.choice, vote.on_left, json.dumps(vote.dimensions),
             vote.seconds, vote.time)) == 1

    def has_voted(self, matchup: str, voter: str) -> bool:
        """Whether this voter's vote on this matchup counts."""
        rows = self._read("SELECT 1 FROM votes WHERE contest = ? AND voter = ? AND undone IS NULL", matchup, voter)
        return bool(rows)

    def undo(self, voter: str, mark: str | None = None) -> Vote | None:
        """Take a voter's last vote back and return it; None when there is none.

        mark: only votes on ballots of this page (see `show`); a name alone is nobody's proof.
        """
        rows = self._read("SELECT * FROM votes WHERE voter = ? AND undone IS NULL AND (? IS NULL OR substr(ballot, 33) "
                          "= ?) ORDER BY time DESC, rowid DESC LIMIT 1", voter, mark, mark)
        if not rows:
            return None
        self._write("UPDATE votes SET undone = ? WHERE ballot = ?", (time.time(), rows[0]["ballot"]))
        return self._vote(rows[0])

    def votes(self) -> list[Vote]:
        """Those that count, oldest first."""
        return [self._vote(row) for row in self._read("SELECT * FROM votes WHERE undone IS NULL ORDER BY time, rowid")]

    def progress(self, voter: str) -> tuple[int, int]:
        """How many matchups a voter has voted on or skipped, and how many there are."""
        [given] = self._read("SELECT COUNT(*) FROM votes WHERE voter = ? AND undone IS NULL AND contest NOT LIKE "
                             f"'{ANCHOR}%'", voter)
        [there] = self._read(f"SELECT COUNT(*) FROM contests WHERE id NOT LIKE '{ANCHOR}%'")
        return given[0], there[0]

    def scores(self, reward: str) -> dict[str, float | None]:
        """A reward's score of each file; None where it could not score it."""
        return {row[0]: row[1] for row in self._read("SELECT file, value FROM marks WHERE judge = ?", reward)}

    def add_scores(self, reward: str, scores: dict[str, float | None]) -> None:
        for file, value in scores.items():
            self._write("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", (file, reward, value))

    def rewards(self) -> list[str]:
        """Rewards that have scored media."""
        return [row[0] for row in self._read("SELECT DISTINCT judge FROM marks ORDER BY judge")]

    def looks(self) -> dict[str, dict[str, float]]:
        """Style statistics of each file that was measured (style.py), by name."""
        found: dict[str, dict[str, float]] = {}
        for file, name, value in self._read("SELECT file, name, value FROM looks"):
            found.setdefault(file, {})[name] = value
        return found

    def add_look(self, file: str, values: dict[str, float]) -> None:
        self._write("INSERT OR REPLACE INTO looks VALUES " + ", ".join(["(?, ?, ?)"] * len(values)),
                    tuple(each for name, value in values.items() for each in (file, name, value)))

    def within(self, file: str) -> Path:
        """The path of a medium. Raises UserError for one outside the book, which no demo writes."""
        if not (path := (self.media / file).resolve()).is_relative_to(self.media.resolve()):
            raise UserError(f"votes {self.file}: names a medium outside its folder ({file})")
        return path

    def path(self, side: MatchupSide) -> Path:
        return self.media / side.file

    def _matchup(self, row: sqlite3.Row) -> Matchup:
        sides = (MatchupSide(row[f"{side}_model"], row[f"{side}_seed"], row[f"{side}_file"]) for side in "ab")
        return Matchup(row["prompt"], *sides, self._json(row["settings"]), row["id"])

    def _vote(self, row: sqlite3.Row) -> Vote:
        return Vote(row["contest"], row["voter"], row["choice"], row["on_left"], self._json(row["dimensions"]),
                    row["seconds"], row["ballot"], row["time"])

    def _json(self, text: str) -> dict:
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError):
            raise UserError(f"votes {self.file}: is damaged ({str(text)[:40]!r} is no JSON object)") from None
