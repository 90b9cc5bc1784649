"""Pairs that are made of annotations and labelled by how they are made (Crome, ICLR 2026, for images and videos).

    causal    a sample against itself with one aspect changed for the worse, which loses in that aspect's dimension.
              Of the prompt, the medium stays as it is: the same sample is compared under two prompts
    neutral   `prompt`: both samples of a pair with another pair's prompt, a tie in what depends on the prompt alone;
              the others: a sample against itself after what should change nothing, a tie in everything

The changes of images and videos are derived here, the paper's are of texts. Which annotation gives which pair follows
from the seed and its place alone.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from visalign.config.augment import ASPECTS, AugmentSettings
from visalign.data.annotations import AnnotatedMedia, Annotation
from visalign.data.changed_prompts import unrelated, with_other_colour, with_other_count, with_other_object
from visalign.errors import UserError
from visalign.media.changes import VIDEO_CHANGES, MediaChange, moves
from visalign.media.kinds import is_video
from visalign.media.video_files import modality_of, read_media

PROMPTS_TRIED = 16
NEEDS = {"colour": "names a colour in the prompt of a sample that is preferred in {dimension}",
         "object": "names one of the known objects in the prompt of a sample that is preferred in {dimension} "
                   "(data.augment.objects may list others)",
         "count": "spells a number, two to ten, in the prompt of a sample that is preferred in {dimension}",
         "shuffle": "has a video that moves", "freeze": "has a video that moves",
         "prompt": "has an unrelated prompt beside it"}
"""What a change asks of an annotation, beside that it is no edit and has no context."""


@dataclass(frozen=True)
class PairMaker:
    """Makes pairs of `items`. dimensions: all that are scored; video_only: those of them that images do not have.
    frames: as many as are read of a video. avoid: prompts that are in no pair that is made."""

    settings: AugmentSettings
    items: Sequence[Annotation]
    dimensions: tuple[str, ...]
    video_only: tuple[str, ...] = ()
    frames: int = 16
    avoid: Collection[str] = ()

    def causal(self, item: Annotation, name: str, rng: random.Random) -> Annotation | None:
        """The pair of a sample and of what a causal change makes of it; None where it cannot be changed so."""
        dimension = self.settings.dimension_of(name)
        if not usable(item):
            return None
        if ASPECTS[name] == "alignment":
            worse = self.other_prompt(item, name, rng)
            if worse is None:
                return None
            kept = winner(item, dimension)
            return either_order(kept, replace(kept, prompt=worse), {dimension: 1.0}, item, f"causal {name}", rng)
        kept = winner(item, dimension) or any_winner(item) or rng.choice((item.a, item.b))
        if name in VIDEO_CHANGES and not (may_move(kept) and moves(read_media(kept.media, item.where, self.frames))):
            return None
        changed = replace(kept, change=MediaChange(name, rng.getrandbits(32)))
        return either_order(kept, changed, {dimension: 1.0}, item, f"causal {name}", rng)

    def other_prompt(self, item: Annotation, name: str, rng: random.Random) -> str | None:
        """The prompt of the preferred sample with one word changed, where there is such a sample and such a word."""
        kept = winner(item, self.settings.dimension_of(name))
        if kept is None:
            return None
        if name == "object":
            found = with_other_object(kept.prompt, rng, self.settings.objects)
        else:
            found = {"colour": with_other_colour, "count": with_other_count}[name](kept.prompt, rng)
        return None if found in self.avoid else found

    def neutral(self, item: Annotation, name: str, rng: random.Random) -> Annotation | None:
        """The tie that a neutral change makes; None where it cannot be made."""
        if not usable(item):
            return None
        if name == "prompt":
            for _ in range(PROMPTS_TRIED):
                prompt = rng.choice(self.items).prompt
                if prompt not in self.avoid and all(unrelated(prompt, side.prompt) for side in (item.a, item.b)):
                    sides = [replace(side, prompt=prompt) for side in (item.a, item.b)]
                    return either_order(*sides, {self.settings.dimension_of(name): 0.5}, item, f"neutral {name}", rng)
            return None
        kept = rng.choice((item.a, item.b))
        scored = [each for each in self.dimensions if each not in self.video_only or may_move(kept)]
        changed = replace(kept, change=MediaChange(name, rng.getrandbits(32)))
        return either_order(kept, changed, dict.fromkeys(scored, 0.5), item, f"neutral {name}", rng) if scored else None

    def of_one(self, item: Annotation, names: Sequence[str], make: Callable, rng: random.Random) -> Annotation | None:
        """One pair of the annotation, by one of the changes that it can have; None where it can have none."""
        for name in rng.sample(names, len(names)):
            if found := make(item, name, rng):
                return found
        return None

    def fits_any(self, name: str) -> bool:
        """Whether any annotation can have this change."""
        make = self.causal if name in ASPECTS else self.neutral
        return any(make(item, name, random.Random(f"fits {place}")) for place, item in enumerate(self.items))


def augmented(items: Sequence[Annotation], settings: AugmentSettings, dimensions: tuple[str, ...],
              video_only: tuple[str, ...] = (), *, frames: int = 16, seed: int | str = 0, share: float | None = None,
              avoid: Collection[str] = (), strict: bool = True) -> list[Annotation]:
    """The pairs that are made of annotations, each with its `kind`: causal or neutral, and the change.

    share: instead of that of the settings. strict: raise UserError for a change that no annotation can have; else it is
    left out. The result depends on the items, the settings and the seed alone.
    """
    maker = PairMaker(settings, items, dimensions, video_only, frames, frozenset(avoid))
    share = settings.share if share is None else share
    pairs = []
    for place, item in enumerate(items):
        for names, make in ((settings.causal, maker.causal), (settings.neutral, maker.neutral)):
            rng = random.Random(f"augment {seed} {make.__name__} {place}")
            if names and rng.random() < share and (found := maker.of_one(item, names, make, rng)):
                pairs.append(found)
    if strict:
        there = counts_of(pairs)
        for sort, name in [*(("causal", n) for n in settings.causal), *(("neutral", n) for n in settings.neutral)]:
            if f"{sort} {name}" not in there and not maker.fits_any(name):
                needed = NEEDS.get(name, "is free of contexts and of source images").format(
                    dimension=settings.dimension_of(name))
                raise UserError(f"data.augment.{sort} {name}: none of the {len(items)} training annotations {needed}; "
                                "leave it out")
    return pairs


def counts_of(pairs: Sequence[Annotation]) -> dict[str, int]:
    """How many pairs there are of each kind, in the order of their names."""
    return dict(sorted(Counter(pair.kind for pair in pairs).items()))


def usable(item: Annotation) -> bool:
    """Whether an annotation may be changed: contexts and instructions for a source image may ask for the change."""
    return not item.context and not item.a.sources and not item.b.sources


def winner(item: Annotation, dimension: str) -> AnnotatedMedia | None:
    """The side that is preferred in a dimension; None where there is none."""
    return {1.0: item.a, 0.0: item.b}.get(item.outcome.get(dimension, 0.5))


def any_winner(item: Annotation) -> AnnotatedMedia | None:
    """The side that is preferred wherever one is; None where there is none, or now one and now the other."""
    decided = {outcome for outcome in item.outcome.values() if outcome != 0.5}
    return winner(item, next(name for name, outcome in item.outcome.items() if outcome != 0.5)) \
        if len(decided) == 1 else None


def may_move(side: AnnotatedMedia) -> bool:
    """Whether it is read as a video."""
    return is_video(side.media) if isinstance(side.media, bytes) else modality_of(Path(side.media)) == "video"


def either_order(better: AnnotatedMedia, worse: AnnotatedMedia, outcome: dict[str, float], of: Annotation, kind: str,
         rng: random.Random) -> Annotation:
    """The pair of two sides in either order; outcome: as the first one's."""
    where = f"{of.where}, {kind}"
    if rng.random() < 0.5:
        return Annotation(better, worse, outcome, where, kind=kind)
    return Annotation(worse, better, {name: 1 - value for name, value in outcome.items()}, where, kind=kind)
