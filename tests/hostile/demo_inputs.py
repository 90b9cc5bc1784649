"""The demo's options and folders of votes; all of it is answered before a model is loaded."""

import json
import sqlite3
from pathlib import Path

from PIL import Image

from tests.hostile.case import Case


def images(folder: Path, prompt: str = "a red square", names=("a", "b")) -> None:
    for name in names:
        (folder / name).mkdir()
        Image.new("RGB", (8, 8), "red").save(folder / name / "0.png")
        row = {"prompt": prompt, "file": "0.png", "seed": 0}
        (folder / name / "samples.jsonl").write_text(json.dumps(row) + "\n")


def nameless(folder: Path) -> None:
    images(folder, prompt="")


def book(folder: Path, **change) -> None:
    """A book with one decided matchup."""
    from visalign.votes import Matchup, MatchupSide, Vote, VoteDatabase

    made = VoteDatabase(folder / "book")
    given = {"a": "0.png", "b": "1.png", "settings": {}} | change
    for file in ("0.png", "1.png"):
        Image.new("RGB", (8, 8), "red").save(made.media / file)
    made.add(Matchup("=cmd|' /C calc'!A0", MatchupSide("base", 0, given["a"]), MatchupSide("mine", 0, given["b"]),
                     given["settings"], "c0"))
    made.vote(Vote("c0", "ann", "a", "a"))


def outside(folder: Path) -> None:
    book(folder, a="../../secret.png")


def twins(folder: Path) -> None:
    """Two rollouts in folders of one name, and one whose name is that of the other table."""
    from visalign.votes import Matchup, MatchupSide, Vote, VoteDatabase

    book(folder)
    made = VoteDatabase(folder / "book")
    for number, place in enumerate(("/x/votes", "/y/votes", "/z/comparisons")):
        made.add(Matchup(f"p{number}", MatchupSide("m", 0, "0.png"), MatchupSide("m", 1, "1.png"), {"rollout": place},
                         f"r{number}"))
        made.vote(Vote(f"r{number}", "ann", "a", "a"))


def damaged(statement: str):
    def give(folder: Path) -> None:
        book(folder)
        with sqlite3.connect(folder / "book" / "votes.sqlite") as raw:
            raw.executescript(statement)

    return give


def cut(folder: Path) -> None:
    book(folder)
    file = folder / "book" / "votes.sqlite"
    with sqlite3.connect(file) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.write_bytes(file.read_bytes()[:4096] + b"\0" * 9000)


TWO = "demo a=a b=b -r saturation --pairs 0 --host 192.0.2.1 "
"""An address that is no machine's, so that no server starts whatever is accepted."""
CASES = [
    Case("user-alone", TWO + "--user ann", ("--user needs a password",), given=images),
    Case("password-alone", TWO + "--password x", ("--password", "needs a --user"), given=images),
    Case("user-empty", TWO + "--user '' --password x", ("needs a --user",), given=images),
    Case("password-empty", TWO + "--user ann --password ''", ("--user needs a password",), given=images),
    Case("user-colon", TWO + "--user a:b --password x", ("cannot hold a colon",), given=images),
    Case("host-url", TWO + "--allowed-host https://demo.example.org", ("--allowed-host is a name",), given=images),
    Case("host-star", TWO + "--allowed-host '*'", ("--allowed-host is a name",), given=images),
    Case("host-port", TWO + "--allowed-host demo.example.org:443", ("--allowed-host is a name",), given=images),
    Case("proxy-name", TWO + "--trusted-proxy proxy.example.org", ("--trusted-proxy is an address",), given=images),
    Case("proxy-all", TWO + "--trusted-proxy '*'", ("--trusted-proxy is an address",), given=images),
    Case("proxy-network", TWO + "--trusted-proxy 10.0.0.1/8", ("--trusted-proxy is an address",), given=images),
    Case("root-relative", TWO + "--root-path demo", ("--root-path is a path such as /demo",), given=images),
    Case("root-url", TWO + "--root-path https://x.org/demo", ("--root-path is a path",), given=images),
    Case("root-up", TWO + "--root-path /a/../b", ("--root-path is a path",), given=images),
    Case("pairs-negative", TWO + "--pairs -1", ("--pairs",), given=images),
    Case("port-zero", TWO + "--port 0", ("--port",), given=images),
    Case("folder-is-a-file", TWO + "--folder f", ("f/votes.sqlite", "vote database"), given=lambda folder: (
        images(folder), (folder / "f").write_text("x"))),
    Case("no-prompt", TWO, ("no generation here has a prompt", "--prompts"), given=nameless),
    Case("model-unknown", "demo a=tiny-sd4", ("tiny-sd4",)),
    Case("model-twice", "demo a=a a=b", ("a",), given=images),
    Case("reward-unknown", "demo a=a b=b -r brightnes", ("brightnes",), given=images),
    Case("votes-none", "votes board .", ("votes.sqlite", "--folder")),
    Case("votes-missing", "votes export nowhere", ("nowhere",)),
    Case("votes-no-database", "votes board .", ("votes.sqlite", "cannot be used"),
         given={"votes.sqlite": "not a database at all, but a long text\n" * 40}),
    Case("votes-other-database", "votes board book", ("votes.sqlite", "has no column"),
         given=damaged("DROP TABLE marks; CREATE TABLE marks (x TEXT);")),
    Case("votes-half-a-database", "votes board book", ("votes.sqlite",), given=cut),
    Case("votes-not-json", "votes export book", ("votes.sqlite", "damaged"),
         given=damaged("UPDATE votes SET dimensions = 'x';")),
    Case("votes-not-an-object", "votes export book", ("votes.sqlite", "damaged"),
         given=damaged("UPDATE contests SET settings = '3';")),
    Case("votes-outside", "votes export book", ("outside its folder",), given=outside),
    Case("votes-unknown-dimension", "votes board book --dimension qualty", ("nobody voted in 'qualty'",), given=book),
    Case("votes-out-is-a-file", "votes export book --out f", ("cannot be written",),
         given=lambda folder: (book(folder), (folder / "f").write_text("x"))),
    Case("votes-none-decided", "votes export book", ("no matchup is decided",),
         given=damaged("UPDATE votes SET choice = 'tie';")),
    Case("votes-look-outside", "votes board book --style", ("outside its folder",), given=outside),
    Case("votes-arena-and-chance", "votes export book --arena --chance", ("--arena", "--chance"), given=book),
    Case("anchors-all", TWO + "--anchors 1", ("--anchors",), given=images),
    Case("votes-board", "votes board book", ("1 votes by 1 voters", "base"), succeeds=True, given=book),
    Case("votes-twins", "votes export book --out out", ("4 decided pairs",), succeeds=True, given=twins, writes=(
        "out/comparisons.csv", "out/comparisons-2.csv", "out/votes.csv", "out/votes-2.csv")),
]
