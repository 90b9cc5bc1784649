"""Which items a run is trained on, and in which order."""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import torch

from visalign.errors import UserError
from visalign.media.source_images import content_of
from visalign.sampling.seeds import epoch_seed
from visalign.storage.files import write_atomically
from visalign.storage.run_folder import RunFolder
from visalign.trainers.mixture import Mixture


class HasPrompt(Protocol):
    @property
    def prompt(self) -> str: ...


Prompted = TypeVar("Prompted", bound=HasPrompt)


def place_of(prompt: str) -> float:
    """Where in [0, 1) the hash of a prompt's text and source images puts it."""
    return int(hashlib.sha256(f"held out {content_of(prompt)}".encode()).hexdigest()[:8], 16) / 2**32


def is_held_out(prompt: str, holdout: float, measured: Collection[str] = ()) -> bool:
    """Whether a prompt is among the share that is held out, chosen by its place, or one that the run measures on.

    measured: what those prompts hold (`content_of`).
    """
    return place_of(prompt) < holdout or content_of(prompt) in measured


def prompts_to_measure(prompts: Iterable[str], setting: str, holdout: float) -> tuple[str, ...]:
    """The prompts that are held out, at least one. Raises UserError when none may be."""
    unique = list(dict.fromkeys(prompts))
    if not holdout or len(unique) < 2:
        why = f"{setting} is 0" if not holdout else f"all of the data has the one prompt {unique[0][:60]!r}"
        raise UserError(f"eval.prompts: no prompt can be held out to measure on, since {why}; name some with "
                        "eval.prompts=FILE, one per line")
    held = [prompt for prompt in unique if is_held_out(prompt, holdout)] or [min(unique, key=place_of)]
    return tuple(held)


def check_holdout(prompts: Iterable[str], holdout: float, measured: Collection[str] = ()) -> None:
    """Raise UserError when every prompt is held out."""
    prompts, measured = set(prompts), frozenset(map(content_of, measured))
    if prompts and all(is_held_out(prompt, holdout, measured) for prompt in prompts):
        raise UserError(f"data.holdout {holdout}: leaves nothing to train on, since the set has {len(prompts)} "
                        f"prompt{'s' * (len(prompts) != 1)}; take a smaller share, or 0 for none")


def check_watched(held_out: bool) -> None:
    """Raise UserError when no pair is held out, of those that guard.watch_pairs would watch."""
    if not held_out:
        raise UserError("guard.watch_pairs: no pair is held out that could be watched; set data.holdout to the share "
                        "of prompts to keep from training, or guard.watch_pairs=0")


def split_by_prompt(items: list[Prompted], holdout: float,
                    measured: Collection[str] = ()) -> tuple[list[Prompted], list[Prompted]]:
    """Training and held-out items; each prompt is entirely on one side. Raises UserError when none is left."""
    check_holdout((item.prompt for item in items), holdout, measured)
    known = frozenset(map(content_of, measured))
    held_out = [is_held_out(item.prompt, holdout, known) for item in items]
    return ([item for item, held in zip(items, held_out, strict=True) if not held],
            [item for item, held in zip(items, held_out, strict=True) if held])


def keep_digest(run: RunFolder, entries: list[tuple], what: str, mixed: Sequence[tuple] = ()) -> None:
    """Record in data.json the run's training data in order; a resumed run must have the same.

    mixed: how often and how strongly each source is learnt, where there are several.

    Raises UserError when it does not: the order of the data, and so the weights, would silently differ.
    """
    file = run.path / "data.json"
    text = json.dumps([*entries, *mixed], default=repr)
    now = {what: len(entries), "digest": hashlib.sha256(text.encode()).hexdigest()}
    try:
        then = json.loads(file.read_text()) if file.is_file() else now
    except ValueError:
        raise UserError(f"{file}: is broken; remove it to resume with the {what} as they are now") from None
    if then != now:
        difference = f"{now[what]} {what} instead of {then.get(what)}" if now[what] != then.get(what) \
            else f"other {what}, or the same in another order"
        raise UserError(f"output.folder {run.path}: cannot resume, the data changed since the run began "
                        f"({difference}); use the same data or a new folder")
    if run.is_main:
        write_atomically(file, json.dumps(now).encode())


class DataOrder(Generic[Prompted]):
    """An endless shuffled order over items in which place `p` always holds the same item, whatever the world size.

    mixture: how often an epoch visits each (None: once).
    """

    def __init__(self, items: list[Prompted], seed: int, mixture: Mixture | None = None):
        self.items, self.seed = items, seed
        self.length = len(items) if mixture is None else mixture.length
        self.mixture = mixture
        self._epoch, self._order = -1, []

    def __getitem__(self, place: int) -> Prompted:
        return self.items[self.index(place)]

    def index(self, place: int) -> int:
        """The index of the item at `place`."""
        epoch, offset = divmod(place, self.length)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
            order = torch.randperm(self.length, generator=generator).tolist()
            visits = None if self.mixture is None else self.mixture.visits(epoch)
            self._epoch, self._order = epoch, order if visits is None else [visits[k] for k in order]
        return self._order[offset]
