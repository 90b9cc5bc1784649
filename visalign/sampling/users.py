"""Sampling for a user: who they are by a file of their pairs, and the users that a run keeps of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from visalign.config import DataSettings, ModelSettings
from visalign.data.preference_pair import PreferencePair
from visalign.data.preferences import read_pairs
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.base import Generator
from visalign.generators.users import UserAdapter, find_user_adapter, read_user_adapter
from visalign.rewards.users import load_user_features, pair_tokens
from visalign.sampling.seeds import stable_seed
from visalign.storage.weights import read_tensors, write_tensors

USERS_FILE = "users.safetensors"
"""In a run's folder: tokens [N, width] of users it learnt from, by their hashes. It is no part of the export."""


def write_users(file: Path, users: dict[str, Tensor]) -> None:
    write_tensors(file, users, {"format": "pt"})


def read_users(run: Path) -> dict[str, Tensor]:
    """Users that a run learnt from, by their hashes; tokens [N, width]. Raises UserError where it keeps none."""
    file = Path(run).expanduser() / USERS_FILE
    if not file.is_file():
        raise UserError(f"run {run}: has no {USERS_FILE}, which a run with model.tuning user writes before it trains")
    return read_tensors(file, f"users {file}")


def in_turn(users: Tensor) -> Callable[[str], Tensor]:
    """`Generator.user_of` by which each prompt is sampled for one of the users [U, N, width], always the same."""
    return lambda prompt: users[stable_seed("user of", prompt) % len(users)]


def read_user_pairs(file: str | Path, adapter: UserAdapter) -> list[PreferencePair]:
    """A user's pairs from a table, in any format of pairs that is trained on.

    Raises UserError for none, more than the adapter was trained with, or one without two samples.
    """
    try:
        pairs = list(read_pairs(DataSettings(path=str(file))))
    except UserError as error:
        raise UserError(f"user {file}: {error}") from None
    if len(pairs) > adapter.context:
        raise UserError(f"user {file}: holds {len(pairs)} pairs, and this adapter was trained to know a user by "
                        f"{adapter.context}; leave between 1 and {adapter.context} of them")
    return pairs


def user_tokens(pairs: list[PreferencePair], adapter: UserAdapter, device: str = "cpu",
                frames: int | None = None) -> Tensor:
    """Tokens [n, width] of a user's n pairs. Raises UserError for pairs that cannot be read, or of another modality
    than the adapter's model."""
    network = load_user_features(adapter.features, device)
    both = [[network.sample_features([pair.sample(each)])[0] for each in pair.media(frames)] for pair in pairs]
    tokens = pair_tokens(*(torch.stack(side) for side in zip(*both, strict=True)))
    if tokens.shape[-1] != adapter.width:
        raise UserError(f"user: {adapter.features} makes tokens of {tokens.shape[-1]} numbers of these pairs, and the "
                        f"adapter was trained with {adapter.width}; give images to an image model, videos to a video "
                        "model, and the features that it was trained with")
    return tokens


def of_its_users(generator: Generator, run: Path) -> Generator:
    """The generator, that samples for users its run learnt from, in turn."""
    generator.user_of = in_turn(torch.stack(list(read_users(run).values())))
    return generator


@dataclass(frozen=True)
class ForUser:
    """Whom samples are for: a table of their pairs, and by how much the user's part is multiplied."""

    file: str | Path
    strength: float = 1.0

    def check(self, lora: Path | None) -> None:
        """Raise UserError where `lora` is no user adapter, or there are none of the user's pairs or too many."""
        if lora is None or find_user_adapter(lora) is None:
            raise UserError(f"user {self.file}: says who samples are for, which a model knows that was trained with "
                            "model.tuning user; give that run, or its export, as --lora")
        read_user_pairs(self.file, read_user_adapter(lora))

    def tell(self, generator: Generator, lora: Path) -> None:
        """Let the generator, which has the adapter, sample for the user."""
        adapter = read_user_adapter(lora)
        tokens = user_tokens(read_user_pairs(self.file, adapter), adapter, str(generator.device),
                             generator.shape.frames)
        generator.set_adapter_strength(self.strength)
        generator.user_of = lambda prompt: tokens

    def identity(self, lora: Path) -> dict:
        """What makes samples for this user what they are."""
        pairs = [pair.identity() for pair in read_user_pairs(self.file, read_user_adapter(lora))]
        return {"user": str(self.file), "pairs of the user": stable_seed(repr(pairs)), "user scale": self.strength}


def load_for_user(model: ModelSettings, run: Path, user: Tensor | str | Path | None, device: str = "cpu",
                  strength: float = 1.0) -> Generator:
    """A model with a run's user adapter, that samples for one user: tokens [n, width], or a file of pairs; None for
    nobody, which is the model itself. `Generator.user_of` may be set to another user later.

    run: with model.tuning user, or its export. strength: by which the user's part is multiplied. Raises UserError.
    """
    generator = load_generator(model, device)
    generator.load_user_adapter(run)
    generator.set_adapter_strength(strength)
    if isinstance(user, Tensor):
        generator.user_of = lambda prompt: user
    elif user is not None:
        ForUser(user, strength).tell(generator, run)
    return generator
