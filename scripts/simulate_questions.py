"""How many questions does it take to know a voter, asked at random or by what each tells? Planted voters, real images.

    python scripts/simulate_questions.py --out questions        table and plot (minutes on one core)

Each pair shows an embedded drawing moved both ways in one of two respects: bright or dark, warm or cold. A voter likes
one side of each, so that there are four kinds of voters. Three of four pairs are of the first respect, as real sets are
uneven; what counts is the accuracy on other drawings, both respects alike. A head `model.variational` learns from 64
voters, on features of tiny-clip; new voters are then read from what they answered:

    random        any pair that was not asked yet
    variance      the one whose margin varies most over who the voter may be (evaluators/next_question.py)
    information   the one whose answer tells most of who the voter is
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from prove_plots import BLUE, GREY, ORANGE, tidy

from visalign.config import JointSettings
from visalign.evaluators.next_question import answer_information, questions_by_gain
from visalign.rewards.joint.heads import KnownUsers
from visalign.rewards.joint.user_heads import UserHead
from visalign.rewards.joint.variational import Variational

SHARES = np.array([0.75, 0.25])
"""Of each respect among pairs."""
SHADES = (((255, 255, 255), (0, 0, 0)), ((255, 130, 30), (30, 110, 255)))
"""Towards which a drawing is moved, by respect."""
QUESTIONS, POOL, KNOWN = 12, 60, 0.9
"""Asked at most; pairs to choose from; accuracy from which a voter is known."""
BATCH, CONTEXT, RATE = 48, 8, 1e-3
Sides = tuple[torch.Tensor, torch.Tensor]
"""Features of pairs by drawing and respect, [drawings, respects, d]: the first side, then the second."""
Margins = tuple[np.ndarray, np.ndarray | None]
Choose = Callable[[np.ndarray, np.ndarray | None, np.random.Generator], int]
"""From margins of pairs that were not asked yet, and weights, the place of the next one."""


def moved(image: Image.Image, respect: int, first: bool) -> Image.Image:
    """A drawing moved one way or the other."""
    return Image.blend(image, Image.new("RGB", image.size, SHADES[respect][0 if first else 1]), 0.35)


def drawn_sides(drawings: int) -> Sides:
    """Of embedded drawings, as a unified reward's backbone reads them before it has learnt anything."""
    from visalign.data.embedded_pairs import drawings_by_caption
    from visalign.media.samples import Sample
    from visalign.rewards.joint.reward import build_network

    rows, fitting = drawings_by_caption()
    caption = {number: text for text, numbers in fitting.items() for number in numbers}
    torch.manual_seed(0)
    network = build_network(JointSettings(dimensions=("quality",), video_only=(), layers=(1, 3), width=64)).eval()
    sides: list[list[torch.Tensor]] = [[], []]
    for number in sorted(caption)[:drawings]:
        with Image.open(io.BytesIO(rows[number]["image"])) as opened:
            image = opened.convert("RGB")
        for side, first in zip(sides, (True, False), strict=True):
            samples = [Sample(caption[number], moved(image, respect, first)) for respect in range(len(SHARES))]
            with torch.no_grad():
                side.append(network.backbone(**network.backbone.collate(samples))[:, 0])
    a, b = (torch.stack(side) for side in sides)
    return a, b


def learnt_head(sides: Sides, steps: int, seed: int = 0, voters: int = 64) -> Variational:
    """A head that has learnt from voters of all kinds."""
    rng = np.random.default_rng(seed)
    drawings, respects, features = sides[0].shape
    tastes = np.array([[(voter >> k) % 2 for k in range(respects)] for voter in range(voters)], np.float32)
    torch.manual_seed(seed)
    settings = JointSettings(dimensions=("quality",), video_only=(), width=64, members=2, variational={
        "size": 8, "context": CONTEXT, "kl_period": max(1, steps // 4)})
    head = Variational.of(settings, SimpleNamespace(features=features, prompt=None), KnownUsers(("a", "b"), 2))
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        who = rng.integers(voters, size=BATCH)
        respect = rng.choice(respects, (BATCH, CONTEXT + 1), p=SHARES)
        drawing = rng.integers(drawings, size=respect.shape)
        said = torch.from_numpy(tastes[who[:, None], respect])
        a, b = (side[drawing, respect] for side in sides)
        count = rng.integers(2, CONTEXT + 1, size=BATCH)
        context = np.arange(BATCH * CONTEXT).reshape(BATCH, CONTEXT)
        context[np.arange(CONTEXT) >= count[:, None]] = -1
        shown = torch.cat([side[:, 1:].reshape(-1, 1, features) for side in (a, b)])
        rewards = head(torch.cat([a[:, :1], b[:, :1]]), torch.full((2 * BATCH,), -1), torch.from_numpy(context),
                       said[:, 1:].reshape(-1, 1), shown)
        won, lost = rewards[..., 0].chunk(2)
        label = said[:, :1].expand_as(won)
        loss = F.binary_cross_entropy_with_logits(won - lost, label) + head.beside(said[:, :1], step).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return head.eval()


def margins_of(head: UserHead, a: torch.Tensor, b: torch.Tensor, belief: object) -> Margins:
    """Of N pairs for S people that a voter may be, [S, E, N, 1], and the weights of those."""
    (won, weights), (lost, _) = (head.views(side, belief) for side in (a, b))
    return (won - lost).transpose(1, 2).numpy(), None if weights is None else weights.numpy()


@torch.no_grad()
def answers(head: UserHead, sides: Sides, taste: np.ndarray, choose: Choose, seed: int,
            questions: int = QUESTIONS) -> list[float]:
    """Accuracy on the second half of the drawings, both respects alike, after 0, 1, ... questions of the first half."""
    rng = np.random.default_rng(seed)
    drawings, respects, _ = sides[0].shape
    half = drawings // 2
    respect, drawing = rng.choice(respects, POOL, p=SHARES), rng.integers(half, size=POOL)
    a, b = (side[drawing, respect][:, None] for side in sides)
    said = torch.from_numpy(taste[respect])[:, None]
    test = [side[half:].reshape(-1, 1, side.shape[-1]) for side in sides]
    right = np.tile(taste, drawings - half) > 0.5
    asked, found = [], []
    for _ in range(questions + 1):
        belief = head.belief_of(a[asked], b[asked], said[asked]) if asked else head.belief_at(None)
        margins, weights = margins_of(head, *test, belief)
        mean = (margins.mean(0) if weights is None else (weights * margins).sum(0)).mean(0)[:, 0]
        found.append(float(np.where(np.abs(mean) < 1e-6, 0.5, (mean > 0) == right).mean()))
        left = [place for place in range(POOL) if place not in asked]
        asked.append(left[choose(*margins_of(head, a[left], b[left], belief), rng)])
    return found


def by_information(margins: np.ndarray, weights: np.ndarray | None, rng: np.random.Generator) -> int:
    return questions_by_gain(margins, weights, answer_information)[0]


def by_variance(margins: np.ndarray, weights: np.ndarray | None, rng: np.random.Generator) -> int:
    return questions_by_gain(margins, weights)[0]


def at_random(margins: np.ndarray, weights: np.ndarray | None, rng: np.random.Generator) -> int:
    return int(rng.integers(margins.shape[2]))


WAYS = {"random": at_random, "variance": by_variance, "information": by_information}


def curves(head: UserHead, sides: Sides, repeats: int, questions: int = QUESTIONS) -> dict[str, np.ndarray]:
    """Accuracies [voters, questions + 1] of voters of all kinds, `repeats` of each, by the way of asking; both have the
    same pairs to choose from."""
    respects = sides[0].shape[1]
    tastes = [np.array([(kind >> k) % 2 for k in range(respects)], np.float32) for kind in range(2**respects)]
    return {way: np.array([answers(head, sides, taste, choose, 1000 * kind + repeat, questions)
                           for kind, taste in enumerate(tastes) for repeat in range(repeats)])
            for way, choose in WAYS.items()}


def needed(accuracy: np.ndarray) -> np.ndarray:
    """Questions after which each voter is known, and stays so; one more than were asked where never."""
    unknown = accuracy < KNOWN
    return np.where(unknown.any(1), accuracy.shape[1] - unknown[:, ::-1].argmax(1), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--drawings", type=int, default=160)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=8)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    sides = drawn_sides(given.drawings)
    half = given.drawings // 2
    head = learnt_head((sides[0][:half], sides[1][:half]), given.steps)
    found = curves(head, sides, given.repeats)
    rng, count = np.random.default_rng(0), {way: needed(each) for way, each in found.items()}
    voters = len(count["random"])
    draws = rng.integers(voters, size=(2000, voters))
    fewer = {}
    for way in ("variance", "information"):
        gap = count["random"] - count[way]
        fewer[way] = [float(gap.mean()), *np.quantile(gap[draws].mean(1), (0.025, 0.975)).round(2).tolist()]
    result = {"accuracy": {way: each.mean(0).round(4).tolist() for way, each in found.items()},
              "needed": {way: float(each.mean()) for way, each in count.items()},
              "never": {way: float((each > QUESTIONS).mean()) for way, each in count.items()},
              "fewer than random": fewer, "voters": voters}
    (given.out / "questions.json").write_text(json.dumps(result, indent=2) + "\n")
    print("questions   " + " ".join(f"{k:6d}" for k in range(QUESTIONS + 1)))
    for way, each in result["accuracy"].items():
        print(f"{way:11s} " + " ".join(f"{value:6.3f}" for value in each))
    print(json.dumps({name: result[name] for name in ("needed", "never", "fewer than random", "voters")}))
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    axis = figure.subplots()
    for (way, each), colour in zip(result["accuracy"].items(), (GREY, BLUE, ORANGE), strict=True):
        axis.plot(range(QUESTIONS + 1), each, "o-", color=colour, label=way, markersize=3)
    tidy(axis, "accuracy for a new voter", "questions answered")
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(given.out / "questions.png", dpi=130)


if __name__ == "__main__":
    main()
