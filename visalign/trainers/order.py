"""Which items a run learns from, and in which order."""

import hashlib
import json
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

import torch

from visalign.errors import UserError
from visalign.storage.files import write_atomically
from visalign.storage.run_folder import RunFolder


class HasPrompt(Protocol):
    @property
    def prompt(self) -> str: ...


Prompted = TypeVar("Prompted", bound=HasPrompt)


def is_held_out(prompt: str, holdout: float) -> bool:
    """Whether a prompt is among the share that is held out, chosen by the hash of its text."""
    return int(hashlib.sha256(f"held out {prompt}".encode()).hexdigest()[:8], 16) / 2**32 < holdout


def check_holdout(prompts: Iterable[str], holdout: float) -> None:
    """Raise UserError when every prompt is held out."""
    prompts = set(prompts)
    if prompts and all(is_held_out(prompt, holdout) for prompt in prompts):
        raise UserError(f"data.holdout {holdout}: leaves nothing to train on, since the set has {len(prompts)} "
                        f"prompt{'s' * (len(prompts) != 1)}; take a smaller share, or 0 for none")


def split_by_prompt(items: list[Prompted], holdout: float) -> tuple[list[Prompted], list[Prompted]]:
    """Training and held-out items; a prompt is wholly on one side. Raises UserError when none is left to train on."""
    check_holdout((item.prompt for item in items), holdout)
    return ([item for item in items if not is_held_out(item.prompt, holdout)],
            [item for item in items if is_held_out(item.prompt, holdout)])


def keep_digest(run: RunFolder, entries: list[tuple], what: str) -> None:
    """Note in data.json what a run learns from, in its order; a resumed run must find the same.

    Raises UserError when it does not: the order of the data, and so the weights, would differ without a word.
    """
    file = run.path / "data.json"
    now = {what: len(entries), "digest": hashlib.sha256(json.dumps(entries, default=repr).encode()).hexdigest()}
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
    """An endless shuffled order over items in which place `p` always holds the same item, whatever the world size."""

    def __init__(self, items: list[Prompted], seed: int):
        self.items, self.seed = items, seed
        self._epoch, self._order = -1, []

    def __getitem__(self, place: int) -> Prompted:
        return self.items[self.index(place)]

    def index(self, place: int) -> int:
        """The number of the item at `place`."""
        epoch, offset = divmod(place, len(self.items))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 7919 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.items), generator=generator).tolist()
        return self._order[offset]
