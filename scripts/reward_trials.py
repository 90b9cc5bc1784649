"""The worlds and trials of prove_rewards.py: pairs of embedded drawings whose right answer is known, what is planted in
their labels, and ways to learn from them, each with the same without its idea."""

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from visalign.data.embedded_pairs import drawing_rows
from visalign.data.embedded_tastes import moved, taste_rows

HELD_OUT = 0.2
"""Share of the prompts that nothing is learnt from."""
Row = dict
BRIGHTER, DARKER = "better one is brighter", "better one is darker"
LARGE, SMALL = "of the larger group", "of the smaller group"


def is_held_out(prompt: str) -> bool:
    """The same prompts in every world."""
    return random.Random(f"held out {prompt}").random() < HELD_OUT


def drawings(per_prompt: int) -> Iterator[tuple[random.Random, dict]]:
    """(what to draw from, pair) of the first pairs of every caption of emoji:pairs."""
    count: dict[str, int] = {}
    for where, pair in drawing_rows():
        prompt = pair["prompt"]
        count[prompt] = count.get(prompt, 0) + 1
        if count[prompt] <= per_prompt:
            yield random.Random(f"rewards {where}"), pair


def turned(pair: dict, rng: random.Random, flipped: bool, **more) -> Row:
    """A row with the better side at either place; flipped: its label names the other one."""
    first = rng.random() < 0.5
    sides = (pair["chosen"], pair["rejected"]) if first else (pair["rejected"], pair["chosen"])
    return {"prompt": pair["prompt"], "a": sides[0], "b": sides[1], "quality": "ab"[first == flipped], **more}


def flipped_world(share: float, seed: int, per_prompt: int = 4) -> tuple[list[list[Row]], list[Row]]:
    """Which of two drawings the prompt describes; of what is learnt from a share is labelled wrongly."""
    train, held_out = [], []
    for rng, pair in drawings(per_prompt):
        wrong = random.Random(f"{seed} {rng.random()}").random() < share
        if is_held_out(pair["prompt"]):
            held_out.append(turned(pair, rng, False))
        else:
            train.append(turned(pair, rng, wrong))
    return [train], held_out


def sources_world(seed: int) -> tuple[list[list[Row]], list[Row]]:
    """As `flipped_world`, from two files: a fifth of the pairs all right, and the others with 40 % wrong."""
    [noisy], held_out = flipped_world(0.4, seed)
    [right], _ = flipped_world(0.0, seed)
    places = [place for place in range(len(right)) if place % 5 == 0]
    return [[right[place] for place in places], [noisy[place] for place in range(len(noisy)) if place % 5]], held_out


def biased_world(seed: int, share: float = 0.9) -> tuple[list[list[Row]], list[Row]]:
    """The better drawing is also brighter, nine times in ten where it is learnt from, half of the time held out."""
    train, held_out = [], []
    for rng, pair in drawings(3):
        held = is_held_out(pair["prompt"])
        bright = random.Random(f"{seed} {rng.random()}").random() < (0.5 if held else share)
        shades = (255, 0) if bright else (0, 255)
        shaded = pair | {"chosen": moved(pair["chosen"], shades[0]), "rejected": moved(pair["rejected"], shades[1])}
        (held_out if held else train).append(turned(shaded, rng, False, kind=BRIGHTER if bright else DARKER))
    return [train], held_out


def voters_world(seed: int, smaller: int) -> tuple[list[list[Row]], list[Row]]:
    """Four people prefer the bright one of two, and so many others the dark one. A held-out pair is asked of each."""
    train, held_out = [], []
    for where, pair in taste_rows():
        user, rng = pair["user"], random.Random(f"{seed} {where}")
        if user.startswith("dark") and int(user.split()[1]) > smaller:
            continue
        row = turned(pair, rng, False, user=user, kind=LARGE if user.startswith("bright") else SMALL)
        (held_out if is_held_out(pair["prompt"]) else train).append(row)
    return [train], held_out


def tinted(image: bytes, colour: tuple[int, int, int]) -> bytes:
    """A drawing as PNG, a third of the way to a colour."""
    with Image.open(io.BytesIO(image)) as opened:
        own = opened.convert("RGB")
    file = io.BytesIO()
    Image.blend(own, Image.new("RGB", own.size, colour), 0.35).save(file, "PNG")
    return file.getvalue()


CIRCLE = ((255, 60, 60), (60, 200, 60), (60, 60, 255))


def circle_world(seed: int) -> tuple[list[list[Row]], list[Row]]:
    """A drawing in three tints: red beats green beats blue beats red."""
    train, held_out = [], []
    for rng, pair in drawings(1):
        for place in range(3):
            better, worse = (tinted(pair["chosen"], CIRCLE[each % 3]) for each in (place, place + 1))
            row = turned({"prompt": pair["prompt"], "chosen": better, "rejected": worse}, rng, False)
            (held_out if is_held_out(pair["prompt"]) else train).append(row)
    return [train], held_out


@dataclass(frozen=True)
class Learning:
    """A way to learn in a world. title: how the table calls it. changes: of the recipe's sections. annotated: whether
    each half of the data gets the opinion of a reward that has learnt, as the control does, from the other half."""

    title: str
    changes: dict = field(default_factory=dict)
    annotated: bool = False


@dataclass(frozen=True)
class RewardWorld:
    """title: how the table calls it. build: from a seed, what is learnt from, by file, and what is held out. control:
    the way without an idea. ways: the others."""

    title: str
    build: Callable[[int], tuple[list[list[Row]], list[Row]]]
    control: Learning
    ways: dict[str, Learning]
    steps: int = 150


PLAIN = Learning("Bradley-Terry")


def noise_ways(share: float) -> dict[str, Learning]:
    """Ways to learn from labels of which a share is wrong."""
    return {
        "smoothing": Learning("`label_smoothing`, known", {"objective": {"label_smoothing": share}}),
        "forward": Learning("`forward_rate: learn`", {"objective": {"forward_rate": "learn"}}),
        "peers": Learning("`peer_filter`, known", {"objective": {"peer_filter": share}}),
        "turned": Learning("`data.strength`: flips, margins", {
            "data": {"strength": {"flip": 0.8}}, "objective": {"margin": 1.0}}, annotated=True),
        "large": Learning("in batches of 96", {"train": {"batch_size": 96}}),
        "large peers": Learning("`peer_filter`, in batches of 96", {
            "objective": {"peer_filter": share}, "train": {"batch_size": 96}}),
    }


# as the recipes have them
WHOSE = {
    "ideal points": Learning("`model.ideal_points`", {"model": {"ideal_points": {"prototypes": 2}}}),
    "latents": Learning("`model.variational`", {"model": {"variational": {"context": 8, "kl_period": 60}}}),
    "groups": Learning("`model.groups`", {"model": {"groups": {"count": 2}}}),
}
SLOWER = {"optim": {"lr": 3e-4}}
"""With the others' rate the parts below the head learn to tell nothing apart, and a circle is never found."""
REWARD_WORLDS = {
    "flips 20": RewardWorld("20 % of the labels wrong", partial(flipped_world, 0.2), PLAIN, noise_ways(0.2)),
    "flips 40": RewardWorld("40 % of the labels wrong", partial(flipped_world, 0.4), PLAIN, noise_ways(0.4)),
    "sources": RewardWorld("a small clean set and a large one with 40 % wrong", sources_world, PLAIN, {
        "balance": Learning("`data.balance`", {"data": {"balance": {}}}),
        "balance by loss": Learning("`data.balance`, by loss", {"data": {"balance": {"normalise": "loss"}}})}),
    "bias": RewardWorld("the better one brighter, nine times in ten", biased_world, PLAIN, {
        "decorrelated": Learning("`train.decorrelate`", {"train": {"decorrelate": {
            "features": ["brightness"], "queue": 256, "warm_up": 0.2}}})}),
    "voters": RewardWorld("two tastes, half of the people each", partial(voters_world, smaller=4),
                          Learning("one taste for all"), WHOSE),
    "minority": RewardWorld("two tastes, four people and one", partial(voters_world, smaller=1),
                            Learning("one taste for all"), WHOSE),
    "circle": RewardWorld("red beats green beats blue beats red", circle_world, Learning("a number for each", SLOWER), {
        "general": Learning("`model.general`", SLOWER | {"model": {"general": {"blocks": 2}},
                                                         "objective": {"name": "general"}})}),
}
