"""The blind vote: two media or answers, names hidden, sides random, one key a vote; every vote is on disk before the
next pair."""

import secrets
import time
import unicodedata
from dataclasses import dataclass

import gradio as gr

from visalign.errors import UserError
from visalign.reports import shown_text
from visalign.votes import Ballot, Matchup, Vote
from visalign.votes.choosing import next_matchup
from visalign.votes.style import kept_media
from visalign_demo.compare_tab import problem_html
from visalign_demo.context import Demo, mark_of, render_fragment, sentence_of
from visalign_demo.media_store import shows_text, shows_video

DIMENSIONS = {"image": ("alignment", "quality", "aesthetics"), "video": ("VQ", "MQ", "TA"),
              "text": ("helpfulness", "truthfulness", "style")}
QUESTIONS = {"text": "Which answer is better?"}
LONGEST_READ = 20_000
"""Characters of an answer that are shown."""
SAID = ("left", "tie", "right", "skip")
LONGEST_NAME, LONGEST_LOOK = 60, 86400
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Characters that make two names look alike, or change the direction of the text around them."""


@dataclass(frozen=True)
class Table:
    """What a voter sees: the ballot to vote on, the one after it (fetched ahead), and a note."""

    current: Ballot | None
    upcoming: Ballot | None
    note: str

    @property
    def held(self) -> str:
        """What the page sends back with the next vote."""
        return ",".join(ballot.id for ballot in (self.current, self.upcoming) if ballot)


class Booth:
    """Hands out ballots and records votes."""

    def __init__(self, demo: Demo):
        self.demo, self.book = demo, demo.book
        models = frozenset(demo.sources)
        self._between = None if demo.settings.rollouts else models

    def deal(self, voter: str, held: str, note: str = "", mark: str = "") -> Table:
        """The ballots that a page holds, as far as this voter has not voted on them, filled up to two.

        mark: of the page; its ballots and votes carry it.
        """
        ballots = [ballot for number in held.split(",")[:2] if number and (ballot := self.book.ballot(number))
                   and ballot.voter == voter and not self.book.has_voted(ballot.matchup.id, voter)]
        while len(ballots) < 2 and (matchup := self.next(voter, [each.matchup.id for each in ballots])):
            ballots.append(self.book.shown(matchup.id, voter, mark) or self.book.show(matchup, voter, mark))
        ballots += [None] * (2 - len(ballots))
        return Table(*ballots, note or self.progress(voter))

    def next(self, voter: str, held: list[str]) -> Matchup | None:
        """What a voter sees after the matchups that their page holds."""
        return next_matchup(self.book, voter, held, self._between, self.demo.settings.anchors, self.demo.questioner)

    def vote(self, voter: str, held: str, said: str, dimensions: dict[str, str], seconds: float | None,
             mark: str = "") -> Table:
        """Record a vote on the held ballot and hand out the next. Raises UserError when it cannot be kept."""
        if said not in SAID:
            raise UserError(f"A vote is one of {', '.join(SAID)}.")
        first, _, rest = held.partition(",")
        ballot = self.book.ballot(first) if first else None
        if ballot is None or ballot.voter != voter:
            return self.deal(voter, "", "This page had no pair of yours; here is one." if first else "", mark)
        said_of = {name: ballot.choice(each) for name, each in dimensions.items() if each in SAID[:3]}
        kept = self.book.vote(Vote(ballot.matchup.id, voter, ballot.choice(said), ballot.on_left, said_of, seconds,
                                   ballot.id))
        return self.deal(voter, rest, "" if kept else "You had voted on this pair; nothing was counted twice.", mark)

    def undo(self, voter: str, held: str, mark: str = "") -> Table:
        """Take the page's last vote back and show its pair again; votes that another page gave by this name stay."""
        taken = self.book.undo(voter, mark)
        if taken is None:
            return self.deal(voter, held, "There is no vote of yours on this page to take back.", mark)
        again = self.book.show(self.book.matchup(taken.matchup), voter, mark)
        return self.deal(voter, f"{again.id},{held}", "The last vote was taken back; vote on this pair again.", mark)

    def progress(self, voter: str) -> str:
        given, there = self.book.progress(voter)
        making = max(0, self.demo.settings.pairs - there) if not self.demo.pool.problem else 0
        return (f"{given} of {there} pairs voted on" + (f", {making} more are being made" if making else "")
                + (f". {self.demo.pool.problem}" if self.demo.pool.problem else ""))

    def html(self, table: Table) -> str:
        def sides(ballot: Ballot | None) -> list[dict]:
            return [] if ballot is None else [self.side(each.file) for each in ballot.sides]

        sources = [self.demo.media_url(file) for file in table.current.matchup.sources] if table.current else []
        return render_fragment("ballot.html.j2", table=table, sides=sides(table.current), ahead=sides(table.upcoming),
                               sources=sources)


    def side(self, file: str) -> dict:
        """What the page shows of a medium of the votes."""
        if shows_text(file):
            return {"text": shown_text(kept_media(self.book.media / file, 1), LONGEST_READ)}
        return {"url": self.demo.media_url(file), "video": shows_video(file)}


def voter_of(name: str | None) -> str:
    """A voter's name as stored. Raises UserError when it is not a valid one."""
    name = unicodedata.normalize("NFC", str(name or "").strip())
    if not 1 <= len(name) <= LONGEST_NAME or any(unicodedata.category(letter) in _UNSEEN for letter in name):
        raise UserError(f"Your name must have 1 to {LONGEST_NAME} characters that can be seen.")
    return name


def seconds_since(begun: object) -> float | None:
    """How long a voter looked, from the time the page was given; None where that time is not plausible."""
    taken = time.time() - begun if isinstance(begun, int | float) else -1
    return taken if 0 <= taken < LONGEST_LOOK else None


def build_vote_tab(demo: Demo) -> None:
    """The tab."""
    booth, names = Booth(demo), DIMENSIONS[demo.modality]
    asked = QUESTIONS.get(demo.modality, "Which fits the prompt better and looks better?")
    gr.Markdown(f"{asked} **←** left, **→** right, **↓** tie, **space** skip, "
                "**u** undo. Which model made which is hidden, and the sides are random for every pair.")
    remembered = gr.BrowserState("", storage_key="visalign-voter", secret="visalign")
    shown = gr.HTML(elem_id="ballot")
    held = gr.Textbox(visible=False, elem_id="held")
    begun = gr.Number(visible=False)
    with gr.Row(elem_id="vote-buttons"):
        left = gr.Button("← Left", elem_id="vote-left", variant="primary")
        tie = gr.Button("↓ Tie", elem_id="vote-tie")
        right = gr.Button("Right →", elem_id="vote-right", variant="primary")
        skip = gr.Button("Skip (space)", elem_id="vote-skip")
        undo = gr.Button("Undo (u)", elem_id="vote-undo")
    with gr.Accordion("Vote by dimension too (optional)", open=False):
        choices = [gr.Radio(["left", "tie", "right"], label=name, elem_classes="va-dimension") for name in names]
    with gr.Accordion("Who votes", open=False):
        voter = gr.Textbox(label="Your name, kept with your votes", max_length=LONGEST_NAME, elem_id="voter")
    waiting = gr.Timer(2, active=False)
    outputs = [shown, held, begun, waiting, *choices]

    def answer(table: Table):
        return (booth.html(table), table.held, time.time(), gr.Timer(active=table.current is None),
                *[None for _ in choices])

    def guarded(request: gr.Request, act):
        try:
            return answer(act(mark_of(request)))
        except Exception as error:
            return (problem_html(sentence_of(error)), *[gr.skip() for _ in outputs[1:]])

    def cast(said: str):
        def vote(request: gr.Request, name, held, begun, *given):
            return guarded(request, lambda mark: booth.vote(
                voter_of(name), held or "", said, dict(zip(names, given, strict=True)), seconds_since(begun), mark))
        return vote

    def look(name, held, request: gr.Request):
        return guarded(request, lambda mark: booth.deal(voter_of(name), held or "", mark=mark))

    def take_back(name, held, request: gr.Request):
        return guarded(request, lambda mark: booth.undo(voter_of(name), held or "", mark))

    quick = {"queue": False, "show_progress": "hidden"}
    for button, said in ((left, "left"), (tie, "tie"), (right, "right"), (skip, "skip")):
        button.click(cast(said), [voter, held, begun, *choices], outputs, api_name=f"vote_{said}", **quick)
    undo.click(take_back, [voter, held], outputs, api_name="vote_undo", **quick)
    waiting.tick(look, [voter, held], outputs, api_visibility="private", **quick)

    def greet(name):
        known = name or f"guest-{secrets.token_hex(3)}"
        return known, known

    def remember(name):
        return (name or "").strip()

    demo.page.load(greet, remembered, [remembered, voter], api_visibility="private", **quick).then(
        look, [voter, held], outputs, api_name="ballot", **quick)
    voter.blur(remember, voter, remembered, api_visibility="private", **quick).then(
        look, [voter, held], outputs, api_visibility="private", **quick)
