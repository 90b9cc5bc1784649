"""The demo, killed while voters vote: every vote that it had answered must be in the database, once."""

import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kills.killing import Found, finished, start


def prove_demo(kills: int, root: Path, chance: random.Random) -> Found:
    """Kill the demo while voters vote; every vote that was answered must be in the database once, unchanged."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
    import httpx
    from votes import SAID, Voter, answers, write_folder

    from visalign.votes import VoteDatabase

    found, begun = Found("demo"), time.monotonic()
    sides = [f"{name}={write_folder(root / name, 40, shade)}" for name, shade in (("one", 40), ("two", 90))]
    port, log = free_port(), root / "log.txt"
    address, book = f"http://127.0.0.1:{port}", VoteDatabase(root / "book")
    words = ["demo", *sides, "-r", "saturation", "--pairs", "40", "--folder", str(root / "book"), "--port", str(port)]
    kept: dict[tuple[str, str], str] = {}

    def vote(name: str) -> None:
        """Vote until the server dies; notes each vote that it has answered."""
        voter = Voter(address, name)
        voter.held = voter.call("ballot", [name, ""])[1]
        for i in range(40):
            said = SAID[i % 4]
            answer = voter.call(f"vote_{said}", [name, voter.held, time.time(), *[None] * voter.dimensions])
            kept[name, voter.held.partition(",")[0]] = said
            voter.held = answer[1]
            time.sleep(chance.uniform(0, 0.1))

    for kill in range(kills):
        number = start(words, log)
        while not (book.matchups() and answers(address)):
            if finished(number, 0.2) is not None:
                raise RuntimeError(f"the demo ended: {log.read_text(errors='replace')[-2000:]}")
        with ThreadPoolExecutor(4) as pool:
            voters, before = [pool.submit(vote, f"voter {kill}-{i}") for i in range(4)], len(kept)
            while len(kept) < before + 4 and not any(each.done() for each in voters):
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 2))
            os.killpg(number, signal.SIGKILL)
            os.waitpid(number, 0)
            for each in voters:
                if not isinstance(each.exception(), httpx.TransportError | None):
                    raise RuntimeError(f"a voter met something else than a dead server: {each.exception()!r}")
        votes, found.kills, found.runs = book.votes(), found.kills + 1, found.runs + 1
        lost, double = lost_and_double(votes, kept)
        if lost or double:
            found.differing.append(f"kill {kill}: {lost} lost, {double} double")
        print(f"demo: {found.kills} kills, {len(kept)} votes answered, {len(votes)} stored, {len(found.differing)} "
              "times one was lost or double", flush=True)
    found.seconds = time.monotonic() - begun
    return found


def lost_and_double(votes: list, kept: dict[tuple[str, str], str]) -> tuple[int, int]:
    """How many of the answered votes, by (voter, ballot), are not stored as they were said, and how many are twice."""
    names = {"tie": "tie", "skip": "skip"}
    told = {(vote.voter, vote.ballot): (names | {vote.on_left: "left"}).get(vote.choice, "right") for vote in votes}
    lost = sum(told.get(key) != said for key, said in kept.items())
    return lost, len(votes) - len({(vote.voter, vote.matchup) for vote in votes})


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
