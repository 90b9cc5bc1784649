"""`visalign reward attack`: how small a change turns the order that a reward gives two images of which one is better.

    false high   the worse image, changed until the reward prefers it
    false low    the better image, changed until the reward prefers the other

Only pairs that the reward orders as they are labelled can be turned. Rewards are of files as they are written, 8 bits a
channel. Where another reward is named as a check, an image whose order it turns as well counts as really changed. What
turned is written as pairs with their first label, to learn from (REFORM, arXiv 2507.06419: its abstract; the attacks
and their bounds are derived).
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from visalign.data.annotations import Annotation, is_preference_set
from visalign.errors import UserError
from visalign.evaluators.attack import climb_latents, climb_pixels, exact_slope, guessed
from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.evaluators.statistics import Estimate, mean_with_interval
from visalign.generators import Generator
from visalign.media.pixels import pixels_of
from visalign.media.samples import Sample, fit_square, to_bytes
from visalign.reports.reward_attack import write_attack_report
from visalign.rewards import Reward, load_reward
from visalign.rewards.pairwise import PairReward
from visalign.sampling.seeds import rng_for
from visalign.storage.files import write_atomically

TOGETHER, FRAMES = 16, 2
ATTACKS = {"false high": 1.0, "false low": -1.0}
"""Which way the reward is led: up, of the worse image; down, of the better one."""


@dataclass(frozen=True)
class Bounds:
    """How far an attack may go. eps: of a channel of a pixel, in [0, 1], in so many steps of a quarter of it at most;
    reach: of latents, relative to their length. probes: directions that a slope is guessed from."""

    eps: float = 4 / 255
    reach: float = 0.05
    steps: int = 20
    probes: int = 16


@dataclass(frozen=True)
class Attacked:
    """One side of a pair, as files would hold it. other: the reward of the other side, other_image. turned: whether the
    reward now prefers the wrong side; undone: whether the check does as well; checked: whether it was asked and agreed
    with the label before."""

    where: str
    prompt: str
    kind: str
    before: float
    after: float
    other: float
    original: Image.Image
    changed: Image.Image
    other_image: Image.Image
    turned: bool
    undone: bool = False
    checked: bool = False

    @property
    def success(self) -> bool:
        return self.turned and not self.undone

    @property
    def gain(self) -> float:
        """Of the reward in the wrong direction."""
        return (self.after - self.before) * ATTACKS[self.kind]


@dataclass(frozen=True)
class KindFound:
    """Of one kind of attack: the share that turned the order, and the mean gain in units of the labelled pairs' mean
    margin, with intervals over prompts."""

    images: int
    success: Estimate
    gain: Estimate
    undone: int


@dataclass(frozen=True)
class AttackFound:
    """pairs: decided pairs of images. right: those that the reward orders as labelled, of which `tried` were attacked.
    skipped: annotations without two images or a winner. margin: the mean margin of the decided pairs."""

    reward: str
    dimension: str
    attacker: str
    pairs: int
    right: int
    tried: int
    skipped: int
    margin: float
    kinds: dict[str, KindFound]
    attacked: list[Attacked]


def attack_reward(spec, items: list[Annotation], dimension: str, data: str, out: Path, *, check=None,
                  model: Generator | None = None, bounds: Bounds = Bounds(), most: int = 64, seed: int = 0,
                  device: str = "cpu") -> AttackFound:
    """Attack both sides of the first `most` pairs, and write pairs.parquet, attack.json and report.html into `out`.

    model: the generator in whose latents to attack; None: in pixels. Raises UserError for a reward that cannot be led,
    and where there is no pair to turn.
    """
    reward, column = attackable(spec, dimension, model is not None, device)
    if model is not None and model.modality != "image":
        raise UserError(f"model: makes {model.modality}s, and images are attacked; name a generator of images")
    checking = load_reward(check, device) if check else None
    pairs, skipped = image_pairs(items, dimension)
    if not pairs:
        raise UserError(f"data {data}: none of its {len(items)} annotations has two images and a winner in {dimension}")
    value = scorer_of(reward, column)
    better, worse = ([replace(pair.sides[i], media=square(pair.sides[i].image)) for pair in pairs] for i in (0, 1))
    margins = value(better) - value(worse)
    right = np.flatnonzero(margins > 0)
    if not len(right):
        raise UserError(f"reward {reward.name}: orders none of the {len(pairs)} pairs as they are labelled, so no "
                        "order can be turned")
    tried = right[:most]
    climb = leader(reward, column, model, bounds, seed)
    attacked = []
    with tqdm(total=2 * len(tried), desc=f"attacking {reward.name}", unit="image") as progress:
        for kind in ATTACKS:
            chosen, others = (worse, better) if kind == "false high" else (better, worse)
            for places in in_batches(tried, [chosen[i].image.size for i in tried]):
                start = [chosen[i] for i in places]
                if model is not None:  # what the attack is measured against passed through the autoencoder too
                    start = [replace(one, media=media)
                             for one, media in zip(start, through_autoencoder(model, start), strict=True)]
                try:
                    changed = climb(start, ATTACKS[kind])
                except ValueError as error:
                    raise UserError(f"reward {reward.name}: {error} at {pairs[places[0]].where} or the pairs after it, "
                                    "so it cannot be led; attack in latents with --model, or another reward") from None
                other = [others[i] for i in places]
                attacked += what_became([pairs[i] for i in places], kind, start, changed, other, value, checking)
                progress.update(len(places))
    found = AttackFound(reward.name, dimension, "latents" if model else "pixels", len(pairs), len(right), len(tried),
                        skipped,                         float(np.abs(margins).mean()), {}, attacked)
    found = replace(found, kinds={kind: summary_of_kind(found, kind) for kind in ATTACKS})
    write_attack(out, found, data)
    return found


@dataclass(frozen=True)
class LabelledImages:
    where: str
    sides: tuple[Sample, Sample]
    """The better one first."""


def attackable(spec, dimension: str, in_latents: bool, device: str) -> tuple[Reward, int]:
    """The reward and the column of the dimension. Raises UserError for one that compares, one of other modalities, and
    one without a gradient where pixels are attacked."""
    reward = load_reward(spec, device)
    if isinstance(reward, PairReward):
        raise UserError(f"reward {reward.name}: compares samples and gives none a reward that could be led; attack one "
                        "that scores")
    if "image" not in reward.modalities:
        raise UserError(f"reward {reward.name}: scores no images, which is what is attacked")
    if not in_latents and not hasattr(reward, "score_pixels"):
        raise UserError(f"reward {reward.name}: has no gradient with respect to the image, which an attack on pixels "
                        "needs; name a generator with --model to attack in its latents, which needs none")
    if dimension in reward.dimensions:
        return reward, reward.dimensions.index(dimension)
    if len(reward.dimensions) > 1:
        raise UserError(f"reward {reward.name}: has no dimension {dimension}; it has {', '.join(reward.dimensions)}")
    return reward, 0


def image_pairs(items: list[Annotation], dimension: str) -> tuple[list[LabelledImages], int]:
    """Pairs of images with a winner, and how many annotations are none."""
    pairs = []
    for item in items:
        if item.outcome.get(dimension) not in (0.0, 1.0):
            continue
        sides = [side.sample(item.where, FRAMES) for side in (item.a, item.b)]
        if all(side.modality == "image" for side in sides):
            pairs.append(LabelledImages(item.where, tuple(sides if item.outcome[dimension] else sides[::-1])))
    return pairs, len(items) - len(pairs)


def square(image: Image.Image) -> Image.Image:
    return fit_square(image.convert("RGB"), min(image.size))


def scorer_of(reward: Reward, column: int) -> Callable[[list[Sample]], np.ndarray]:
    """What gives samples their rewards, larger being better, float64 [n]. Raises UserError where there is none."""
    sign = 1 if reward.higher_is_better else -1

    def value(samples: list[Sample]) -> np.ndarray:
        found = sign * reward.score(samples).values[:, column].double().numpy()
        if not np.isfinite(found).all():
            raise UserError(f"reward {reward.name}: gives no finite reward to {(~np.isfinite(found)).sum()} of "
                            f"{len(found)} images")
        return found

    return value


def in_batches(places: Iterable[int], sizes: list[tuple[int, int]]) -> Iterator[list[int]]:
    """Places of images of one size, a few at a time."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for place, size in zip(places, sizes, strict=True):
        by_size.setdefault(size, []).append(int(place))
    for same in by_size.values():
        yield from (same[first:first + TOGETHER] for first in range(0, len(same), TOGETHER))


def leader(reward, column: int, model: Generator | None, bounds: Bounds,
           seed: int) -> Callable[[list[Sample], float], list[Image.Image]]:
    """What changes images so that the reward rises (way 1) or falls (way -1)."""
    sign = 1 if reward.higher_is_better else -1
    if model is None:
        def in_pixels(samples: list[Sample], way: float) -> list[Image.Image]:
            prompts = [sample.prompt for sample in samples]
            start = torch.from_numpy(np.stack([pixels_of(sample.image) for sample in samples])).permute(0, 3, 1, 2)
            found = climb_pixels(lambda at: way * sign * reward.score_pixels(at, prompts)[:, column], start.float(),
                                 bounds.eps, bounds.eps / 4, bounds.steps)
            return images_of(found)

        return in_pixels

    with_gradient = hasattr(reward, "score_pixels")
    slope = exact_slope if with_gradient else guessed(bounds.probes, 0.02, rng_for(seed, "attack"))

    def in_latents(samples: list[Sample], way: float) -> list[Image.Image]:
        prompts = [sample.prompt for sample in samples]

        def value(latents: Tensor) -> Tensor:
            pixels = (model.decode_pixels(latents) / 2 + 0.5).clamp(0, 1)
            if with_gradient:
                return way * sign * reward.score_pixels(pixels, prompts)[:, column]
            made = [replace(each, media=image) for each, image in zip(samples, images_of(pixels), strict=True)]
            return way * sign * reward.score(made).values[:, column]

        start = latents_of(model, samples)
        return images_of((model.decode_pixels(climb_latents(value, start, bounds.reach, bounds.steps, slope)).detach()
                          / 2 + 0.5).clamp(0, 1))

    return in_latents


def latents_of(model: Generator, samples: list[Sample]) -> Tensor:
    return model.encode_media(model.to_pixels([sample.image for sample in samples]))


def through_autoencoder(model: Generator, samples: list[Sample]) -> list[Image.Image]:
    """The samples as the model's autoencoder gives them back."""
    return images_of((model.decode_pixels(latents_of(model, samples)).detach() / 2 + 0.5).clamp(0, 1))


def images_of(pixels: Tensor) -> list[Image.Image]:
    """Of [B, 3, H, W] in [0, 1], rounded to 8 bits."""
    return [Image.fromarray(each) for each in
            (pixels.detach() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()]


def what_became(pairs: list[LabelledImages], kind: str, start: list[Sample], changed: list[Image.Image],
              other: list[Sample], value: Callable, checking: Reward | None) -> list[Attacked]:
    """What the attack did to the reward, and to what checks it."""
    after = [replace(each, media=image) for each, image in zip(start, changed, strict=True)]
    rewards = [value(samples) for samples in (start, after, other)]
    way, checks = ATTACKS[kind], [None] * len(pairs)
    if checking is not None:
        said = [scorer_of(checking, 0)(samples) for samples in (start, after, other)]
        checks = [((before - far) * way < 0, (now - far) * way >= 0) for before, now, far in zip(*said, strict=True)]
    return [Attacked(pair.where, first.prompt, kind, float(r0), float(r1), float(r2), first.image, image, far.image,
                     bool((r0 - r2) * way < 0 < (r1 - r2) * way), bool(check and check[0] and check[1]),
                     bool(check and check[0]))
            for pair, first, image, far, check, r0, r1, r2 in zip(pairs, start, changed, other, checks, *rewards,
                                                                  strict=True)]


def summary_of_kind(found: AttackFound, kind: str) -> KindFound:
    mine = [each for each in found.attacked if each.kind == kind]
    prompts = np.array([each.prompt for each in mine])
    gains = [each.gain / found.margin for each in mine]
    by_prompt = [np.mean([gain for gain, asked in zip(gains, prompts, strict=True) if asked == prompt])
                 for prompt in dict.fromkeys(prompts)]
    return KindFound(len(mine), clustered_mean(np.array([float(each.success) for each in mine]), prompts),
                     mean_with_interval(by_prompt), sum(each.undone for each in mine))


def write_attack(out: Path, found: AttackFound, data: str) -> None:
    """The pairs that were turned, in the form of the annotations, every number, and the page."""
    out.mkdir(parents=True, exist_ok=True)
    preferences = is_preference_set(data)
    better, worse = ("chosen", "rejected") if preferences else ("a", "b")
    rows = []
    for each in found.attacked:
        if each.success:
            sides = (each.other_image, each.changed) if each.kind == "false high" else (each.changed, each.other_image)
            rows.append({"prompt": each.prompt, better: to_bytes(sides[0]), worse: to_bytes(sides[1]),
                         "kind": each.kind, "from": each.where} | ({} if preferences else {found.dimension: "a"}))
    (out / "pairs.parquet").unlink(missing_ok=True)  # of an earlier attack
    if rows:
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        write_atomically(out / "pairs.parquet", buffer.getvalue())
    write_atomically(out / "attack.json", (json.dumps(attack_numbers(found), indent=2) + "\n").encode())
    write_attack_report(out / "report.html", found, data)


def attack_numbers(found: AttackFound) -> dict:
    """All but the images; an end of an interval that is not known is null."""
    def interval(estimate: Estimate) -> dict:
        return {name: value if np.isfinite(value) else None for name, value in estimate._asdict().items()}

    numbers = ("reward", "dimension", "attacker", "pairs", "right", "tried", "skipped", "margin")
    return {name: getattr(found, name) for name in numbers} | {
        "kinds": {kind: {"images": each.images, "undone": each.undone, "success": interval(each.success),
                         "gain": interval(each.gain)} for kind, each in found.kinds.items()},
        "images": [{name: getattr(each, name) for name in ("where", "prompt", "kind", "before", "after", "other",
                                                           "turned", "undone", "checked")} for each in found.attacked]}


def attack_lines(found: AttackFound, out: Path) -> list[str]:
    """The table in words, and where the pairs are."""
    lines = [f"{found.right} of {found.pairs} pairs are ordered as labelled; {found.tried} of them, changed in "
             f"{found.attacker}:"]
    for kind, each in found.kinds.items():
        undone = f", {each.undone} more undone by the check" if each.undone else ""
        lines.append(f"  {kind:10} {100 * each.success.value:.0f} % turned [{100 * each.success.low:.0f}, "
                     f"{100 * each.success.high:.0f}], gain {each.gain.value:+.2f} mean margins [{each.gain.low:+.2f}, "
                     f"{each.gain.high:+.2f}]{undone}")
    turned = sum(each.success for each in found.attacked)
    return [*lines, f"{turned} turned pairs in {out / 'pairs.parquet'}" if turned else "no pair was turned"]
