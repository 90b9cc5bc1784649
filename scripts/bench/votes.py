"""Many voters at one server on loopback: is a vote lost or counted twice, and how long does one take?

    python scripts/bench/votes.py                  20 voters, 40 votes each, as fast as the server answers
    python scripts/bench/votes.py --pause 2        with two seconds to look at each pair

Starts `visalign demo` on two folders of images, lets all voters vote at once, each vote sent twice as an impatient
finger would, and counts what the database holds. A round trip is the time from sending a vote
to having the next pair; the images of the next pair were fetched with the pair before it.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from visalign.votes import VoteDatabase

SAID = ("left", "tie", "right", "skip")


def write_folder(folder: Path, prompts: int, shade: int) -> Path:
    """Images with the prompts of samples.jsonl."""
    folder.mkdir()
    rows = []
    for number in range(prompts):
        Image.effect_noise((64, 64), shade).save(folder / f"{number}.png")
        rows.append(json.dumps({"prompt": f"prompt {number}", "file": f"{number}.png", "seed": 0}))
    (folder / "samples.jsonl").write_text("\n".join(rows) + "\n")
    return folder


class Voter:
    """One person's page, as the browser talks to the server."""

    def __init__(self, address: str, name: str):
        self.client, self.name = httpx.Client(base_url=address, timeout=60), name
        self.held, self.seconds = "", []
        self.dimensions = 3

    def call(self, api: str, data: list) -> list:
        answer = self.client.post(f"/gradio_api/run/{api}", json={"data": data, "session_hash": self.name})
        answer.raise_for_status()
        data = answer.json()["data"]
        if "va-problem" in str(data[0]):
            raise RuntimeError(f"the server refused: {data[0]}")
        return data

    def vote(self, count: int, pause: float) -> list[float]:
        """Vote `count` times, after `pause` seconds on average; the seconds of each round trip."""
        self.held = self.call("ballot", [self.name, ""])[1]
        with ThreadPoolExecutor(1) as impatient:
            for i in range(count):
                time.sleep(random.uniform(0, 2 * pause))
                data = [self.name, self.held, time.time(), *[None] * self.dimensions]
                again = impatient.submit(self.call, f"vote_{SAID[i % 4]}", data)
                begun = time.perf_counter()
                self.held = self.call(f"vote_{SAID[i % 4]}", data)[1]
                self.seconds.append(time.perf_counter() - begun)
                again.result()
        return self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voters", type=int, default=20)
    parser.add_argument("--votes", type=int, default=40)
    parser.add_argument("--pause", type=float, default=0.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        root = Path(folder)
        sides = [f"{name}={write_folder(root / name, args.votes, shade)}" for name, shade in (("one", 40), ("two", 90))]
        server = subprocess.Popen([sys.executable, "-m", "visalign", "demo", *sides, "-r", "saturation", "--pairs",
                                   str(args.votes), "--folder", str(root / "book"), "--port", str(port)],
                                  env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        try:
            print(json.dumps(voted(f"http://127.0.0.1:{port}", root / "book", args.voters, args.votes, args.pause)))
        finally:
            server.terminate()
            server.wait()


def voted(address: str, folder: Path, voters: int, votes: int, pause: float = 0.0) -> dict[str, float]:
    """What comes of so many voters' votes at a server, and how long they take. folder: of its database."""
    book = VoteDatabase(folder)
    while len(book.matchups()) < votes or not answers(address):
        time.sleep(0.2)
    begun = time.perf_counter()
    with ThreadPoolExecutor(voters) as pool:
        seconds = np.concatenate(list(pool.map(
            lambda i: Voter(address, f"voter {i}").vote(votes, pause), range(voters))))
    whole, kept = time.perf_counter() - begun, book.votes()
    counted = len({(vote.voter, vote.matchup) for vote in kept})
    return {"voters": voters, "votes_given": voters * votes, "votes_kept": len(kept),
            "lost": voters * votes - counted, "double": len(kept) - counted,
            "p50_ms": round(1000 * float(np.quantile(seconds, 0.5))),
            "p95_ms": round(1000 * float(np.quantile(seconds, 0.95))),
            "votes_a_second": round(voters * votes / whole, 1)}


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
