"""What a run trains on and what it measures on, where there are several sources and several captions of an image."""

from collections.abc import Sequence
from dataclasses import replace

from visalign.config import DataSettings
from visalign.config.sources import shares_of
from visalign.errors import UserError
from visalign.media.source_images import content_of
from visalign.trainers.mixture import Mixture, visits_of
from visalign.trainers.offline.encoded_pairs import EncodedPair
from visalign.trainers.order import is_held_out, split_by_prompt


def split_items(items: list[EncodedPair], data: DataSettings,
                measured: Sequence[str]) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Training and held-out items. What is measured on is trained on nowhere: not in another source, not as another
    caption of an image, and not in a prior set, of which nothing is held out.

    Raises UserError when nothing is left to train on.
    """
    own = [item for item in items if not data.is_prior(item.origin)]
    train, held_out = split_by_prompt(own, data.holdout, measured)
    known = frozenset(map(content_of, measured)) | {content_of(item.prompt) for item in held_out}
    train = [_without(item, [is_held_out(text, data.holdout, known) for text, _ in item.captions]) for item in train]
    prior = [_without(item, [content_of(text) in known for text, _ in item.captions]) for item in items
             if data.is_prior(item.origin) and content_of(item.prompt) not in known]
    return train + prior, held_out


def _without(item: EncodedPair, held: list[bool]) -> EncodedPair:
    if not any(held):
        return item
    return replace(item, captions=tuple(each for each, out in zip(item.captions, held, strict=True) if not out))


def mixture_of(items: list[EncodedPair], data: DataSettings, seed: int) -> Mixture | None:
    """How often an epoch visits each item; None where all are visited once.

    Raises UserError when a source that shall have its share has nothing to train on.
    """
    if data.positive_ratio is not None:
        kinds = [[index for index, item in enumerate(items) if item.desirable is kind] for kind in (True, False)]
        return Mixture(kinds, visits_of(list(map(len, kinds)), (data.positive_ratio, 1 - data.positive_ratio)), seed)
    shares = shares_of(data.sources or ())
    if not any(shares):
        return None
    members: list[list[int]] = [[] for _ in shares]
    for index, item in enumerate(items):
        members[item.origin].append(index)
    empty = next((source.path for source, those in zip(data.sources, members, strict=True) if not those), None)
    if empty:
        raise UserError(f"data.sources: nothing of {empty} is left to train on, since all its prompts are held out; "
                        "take a smaller data.holdout, or leave the source out")
    return Mixture(members, visits_of(list(map(len, members)), shares), seed)


def mixture_lines(data: DataSettings, sizes: Sequence[int]) -> list[str]:
    """Of each source: how many pairs it has, and its part of all visits; nothing for one source alone."""
    if not data.sources or not all(sizes):
        return []
    visits = visits_of(sizes, shares_of(data.sources))
    return [f"{source.path}: {size} {'images or videos of a prior set' if source.prior else 'to learn from'}, "
            f"{each / sum(visits):.0%} of the visits" + f", loss weight {source.loss_weight:g}" * (
                source.loss_weight != 1) for source, size, each in zip(data.sources, sizes, visits, strict=True)]
