"""From samples to votes to training and back: images, blind votes, training on them, and the voter's score afterwards.

    python scripts/close_the_loop.py loop                     tiny-sd3, 300 pairs, about ten minutes on 2 CPU cores

Starts `visalign demo` on one model, votes on its pairs through the page's own interface, lets the page write the
recipe, trains by it, and measures on held-out prompts. The voter is a reward here (tiny-clip), applied to the
images that the page shows; people can take its place without other changes.
"""

import argparse
import io
import re
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import httpx
from PIL import Image
from tqdm import tqdm

from visalign import Sample, load_reward
from visalign.evaluators import mean_with_interval
from visalign.evaluators.statistics import relative_change
from visalign.storage.run_folder import read_metrics

DIMENSIONS = 3
VISALIGN = (sys.executable, "-m", "visalign")


class Page:
    """The demo's page, without a browser."""

    def __init__(self, address: str, voter: str):
        self.client, self.voter = httpx.Client(base_url=address, timeout=120), voter

    def call(self, api: str, *data) -> list:
        answer = self.client.post(f"/gradio_api/run/{api}", json={"data": list(data), "session_hash": self.voter})
        answer.raise_for_status()
        return answer.json()["data"]

    def ballot(self, held: str = "") -> tuple[str, str]:
        """What is shown, and what the page hands back with a vote."""
        return tuple(self.call("ballot", self.voter, held)[:2])

    def vote(self, said: str, held: str) -> tuple[str, str]:
        return tuple(self.call(f"vote_{said}", self.voter, held, time.time(), *[None] * DIMENSIONS)[:2])

    def images(self, html: str) -> list[Sample]:
        """The prompt and both images of a ballot; [] where none is shown."""
        found = re.search(r'class="va-prompt">(.*?)</p>', html, re.S)
        if not found:
            return []
        urls = re.findall(r'src="(/media/[^"]+)"', html)[:2]
        return [Sample(unescape(found[1])).with_media(Image.open(io.BytesIO(self.client.get(url).content)))
                for url in urls]


def vote_on_all(page: Page, taste, pairs: int) -> dict[str, int]:
    """Vote on every pair as it becomes ready; what was said, counted."""
    said: dict[str, int] = {}
    html, held = page.ballot()
    with tqdm(total=pairs, desc="voting", unit="vote") as progress:
        while sum(said.values()) < pairs:
            samples = page.images(html)
            if not samples:
                time.sleep(1)
                html, held = page.ballot(held)
                continue
            left, right = taste.score(samples).values[:, 0].tolist()
            choice = "tie" if abs(left - right) < 0.01 else "left" if left > right else "right"
            html, held = page.vote(choice, held)
            said[choice] = said.get(choice, 0) + 1
            progress.update()
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="tiny-sd3")
    parser.add_argument("--prompts", default="emoji:train")
    parser.add_argument("--held-out", default="emoji:held_out")
    parser.add_argument("--taste", default="tiny-clip")
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--port", type=int, default=7869)
    args = parser.parse_args()
    votes, runs = args.out / "votes", args.out / "runs"
    sampling = ("--steps", "12", "--guidance-scale", "1", "--set", "attention=math", "--set", "prompt_tokens=8")
    demo = subprocess.Popen([*VISALIGN, "demo", f"base={args.model}", "--prompts", args.prompts, *sampling, "--pairs",
                             str(args.pairs), "--folder", str(votes), "--runs", str(runs), "-r", args.taste, "--port",
                             str(args.port)])
    try:
        address = f"http://127.0.0.1:{args.port}"
        while demo.poll() is None and not answers(address):
            time.sleep(0.5)
        page = Page(address, "taste")
        said = vote_on_all(page, load_reward(args.taste), args.pairs)
        page.call("train_plan")
    finally:
        demo.terminate()
        demo.wait()
    print("votes:", ", ".join(f"{choice} {count}" for choice, count in sorted(said.items())))
    subprocess.run([*VISALIGN, "votes", "export", str(votes)], check=True)
    command = [*VISALIGN, "train", str(votes / "train_on_votes.yaml"), f"eval.prompts={args.held_out}",
               "eval.max_prompts=96", f"output.folder={runs / 'votes'}"]
    subprocess.run(command, check=True)
    before, after = (rows["values"] for rows in ends(runs / "votes"))
    change = mean_with_interval([b - a for a, b in zip(before[f"reward/{args.taste}"], after[f"reward/{args.taste}"],
                                                       strict=True)])
    diversity = relative_change(before["diversity/extra"], after["diversity/extra"]).scaled(100)
    print(f"{args.taste}, the voter's taste, on held-out prompts: {change}")
    print(f"diversity within a prompt: {diversity.value:+.0f} % [{diversity.low:+.0f}, {diversity.high:+.0f}]")


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def ends(run: Path) -> tuple[dict, dict]:
    """What was measured before and after."""
    held = [row for row in read_metrics(run) if row["kind"] == "held_out"]
    return held[0], held[-1]


if __name__ == "__main__":
    main()
