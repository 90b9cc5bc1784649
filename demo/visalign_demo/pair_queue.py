"""Matchups for the blind vote, generated in the background so that voters do not wait."""

import hashlib
import itertools
import json
import logging
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visalign.data.entry import Entry
from visalign.data.generations import find_generations
from visalign.data.metadata import seed_of
from visalign.data.rows import row_prompt, table_rows, take
from visalign.errors import UserError
from visalign.evaluation.sources import SampleSource
from visalign.media.source_images import content_of, is_edit, notes_of, prompt_group, split_prompt
from visalign.votes import Matchup, MatchupSide, VoteDatabase
from visalign.votes.anchors import OBVIOUS, obvious_of, spoilt
from visalign.votes.asking import Questioner
from visalign.votes.style import kept_media, measure_style
from visalign_demo.media_store import WHOLE_FRAMES, kept_entry, opaque_copy, put_for_good
from visalign_demo.model_worker import BACKGROUND, Job, ModelWorker

_log = logging.getLogger("visalign.demo")


@dataclass(frozen=True)
class PairPlan:
    """Which models meet on which prompts, and how they sample."""

    sources: list[SampleSource]
    prompts: list[str]
    steps: int
    guidance_scale: float

    def matchups(self) -> Iterator["QueuedPair"]:
        """Endless: every prompt once, then again with other seeds. Models meet on the same seed; a single model
        meets itself on two. No two prompts share a seed, since some seeds are better than others; for folders, seeds
        number the media of a prompt."""
        couples = list(itertools.combinations(self.sources, 2))
        stored = any(source.load is None for source in self.sources)
        for turn in itertools.count():
            for place, prompt in enumerate(self.prompts):
                seed = turn if stored else turn * len(self.prompts) + place
                if couples:
                    a, b = couples[(place + turn) % len(couples)]
                    yield QueuedPair(prompt, a, b, seed, seed)
                else:
                    [alone] = self.sources
                    yield QueuedPair(prompt, alone, alone, 2 * seed, 2 * seed + 1)

    def settings(self) -> dict:
        return {"steps": self.steps, "guidance_scale": self.guidance_scale}

    def name_of(self, queued: "QueuedPair") -> str:
        """The same matchup has the same id after a restart."""
        sides = [(side.name, side.identity, seed) for side, seed in queued.sides()]
        said = json.dumps([content_of(queued.prompt), sides, self.settings()], sort_keys=True, default=str)
        return hashlib.sha256(said.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class QueuedPair:
    """A matchup to be generated."""

    prompt: str
    a: SampleSource
    b: SampleSource
    a_seed: int
    b_seed: int

    def sides(self) -> tuple[tuple[SampleSource, int], tuple[SampleSource, int]]:
        return (self.a, self.a_seed), (self.b, self.b_seed)


class PairQueue:
    """Fills the database up to `count` matchups of the plan, and with those of rollout folders; then plants anchors
    among them and measures how all media look, which the fair ranking needs. questioner: who looks at all media, to
    choose pairs by what they tell of a voter."""

    def __init__(self, model_worker: ModelWorker, book: VoteDatabase, recipe: PairPlan, count: int,
                 rollouts: tuple[Path, ...] = (), anchors: float = 0.0, questioner: Questioner | None = None):
        self.model_worker, self.book, self.recipe, self.count = model_worker, book, recipe, count
        self.anchors, self.questioner = anchors, questioner
        self.problem = ""
        self._known = {matchup.id for matchup in book.matchups()}
        self._sources: dict[Path, str] = {}
        for folder in rollouts:
            for matchup in drawn_matchups(folder, book, self._known):
                book.add(matchup)
        self._thread = threading.Thread(target=self._fill, name="pool", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float | None = None) -> None:
        """Wait until the queue is full."""
        self._thread.join(seconds)

    def _fill(self) -> None:
        for work, what in ((self._make_all, "No more pairs are generated"),
                           (self.plant, "Obvious anchors are not planted"),
                           (lambda: measure_style(self.book), "The style of the pairs is not measured")):
            try:
                work()
            except UserError as error:
                self.problem = self.problem or f"{what}: {error}"
            except Exception as error:
                _log.exception("the pair queue ended")
                self.problem = self.problem or f"{what} ({type(error).__name__}); see the server's log."

    def _make_all(self) -> None:
        self._look()
        for queued in itertools.islice(self.wanted(), self.count):
            name = self.recipe.name_of(queued)
            if name not in self._known:
                self.make(name, queued)
                measure_style(self.book)
                self._look()

    def _look(self) -> None:
        """Let the questioner read what it has not read yet; pairs are made whether it can or not."""
        if self.questioner is None:
            return
        try:
            self.questioner.look()
        except Exception:
            _log.exception("no further pair is chosen by what it tells of a voter")
            self.questioner = None

    def plant(self) -> None:
        """Make as many obvious anchors as a voter of all matchups sees, and at least one."""
        plain = [matchup for matchup in self.book.matchups() if not matchup.is_anchor]
        for matchup in plain[:math.ceil(self.anchors * len(plain))]:
            if OBVIOUS + matchup.id not in self._known:
                whole = kept_media(self.book.within(matchup.a.file), WHOLE_FRAMES)
                self.book.add(obvious_of(matchup, put_for_good(spoilt(whole), self.book.media)))

    def wanted(self) -> Iterator[QueuedPair]:
        """The plan's matchups; for folders, those where both sides have a medium."""
        stored = {source.name: entries_by_prompt(source) for source in self.recipe.sources if source.load is None}
        if not stored:
            yield from self.recipe.matchups()
            return
        most = max((len(files) for prompts in stored.values() for files in prompts.values()), default=0)
        for queued in self.recipe.matchups():
            if min(queued.a_seed, queued.b_seed) >= most:
                return
            if all(len(stored[side.name].get(prompt_group(queued.prompt), [])) > seed for side, seed in queued.sides()
                   if side.name in stored):
                yield queued

    def make(self, name: str, queued: QueuedPair) -> None:
        """Generate both sides and add the matchup; yields to users' requests and continues after them."""
        sides: list[MatchupSide] = []

        def work(job: Job) -> None:
            for source, seed in queued.sides()[len(sides):]:
                sides.append(MatchupSide(source.name, seed, self.file_of(job, source, queued.prompt, seed)))

        while len(sides) < 2:
            for _ in self.model_worker.submit(work, BACKGROUND):
                pass
        words, edit = kept_edit(queued.prompt, self.book, self._sources)
        self.book.add(Matchup(words, *sides, self.recipe.settings() | edit, name))
        self._known.add(name)

    def file_of(self, job: Job, source: SampleSource, prompt: str, seed: int) -> str:
        if source.load is None:
            return kept_entry(entries_by_prompt(source)[prompt_group(prompt)][seed], self.book.media)
        recipe = self.recipe
        [medium] = self.model_worker.sample(job, source, prompt, [seed], steps=recipe.steps,
                                      guidance_scale=recipe.guidance_scale)
        return put_for_good(medium, self.book.media)


def entries_by_prompt(source: SampleSource) -> dict[str, list[Entry]]:
    """Generations of a folder, by prompt and source images (`prompt_group`)."""
    found: dict[str, list[Entry]] = {}
    for entry in find_generations(source.source):
        if not entry.problem:
            found.setdefault(entry.group, []).append(entry)
    return found


def kept_edit(prompt: str, book: VoteDatabase, known: dict[Path, str]) -> tuple[str, dict]:
    """The words of a prompt and, of an edit, what its matchup keeps beside them; images are copied into the book.

    known: files that were copied before, with their names, to which new ones are added.
    """
    if not is_edit(prompt):
        return prompt, {}
    words, files = split_prompt(prompt)

    def copied(file: Path) -> str:
        if file not in known:
            known[file] = opaque_copy(file, book.media)
        return known[file]

    notes = {name: copied(Path(value)) if name == "mask" else value for name, value in notes_of(prompt).items()}
    return words, {"sources": [copied(file) for file in files], "notes": notes, "asked": prompt}


def drawn_matchups(folder: Path, book: VoteDatabase, known: set[str]) -> Iterator[Matchup]:
    """Pairs that `visalign votes draw` drew and are not in the database yet. Raises UserError for a wrong folder."""
    table = folder / "votes.csv"
    if not table.is_file():
        raise UserError(f"rollout {folder}: has no votes.csv; `visalign votes draw RECIPE --out {folder}` makes one")
    copied: dict[Path, str] = {}
    for number, (where, row) in enumerate(table_rows(str(table)), 1):
        prompt = row_prompt(row, "prompt", where)
        name = hashlib.sha256(f"{folder.resolve()} {number} {prompt}".encode()).hexdigest()[:32]
        if name in known:
            continue
        seeds = {side: seed_of(take(row, f"{side}_seed", where)) for side in "ab"}
        if None in seeds.values():
            raise UserError(f"rollout {where}: a_seed and b_seed must be whole numbers")
        try:
            sides = [MatchupSide(folder.name, seeds[side],
                          opaque_copy(folder / Path(take(row, side, where)).name, book.media)) for side in "ab"]
        except (TypeError, ValueError, OSError) as error:
            raise UserError(f"rollout {where}: cannot be used ({error})") from None
        words, edit = kept_edit(prompt, book, copied)
        yield Matchup(words, *sides, {"rollout": str(folder.resolve())} | edit, name)
