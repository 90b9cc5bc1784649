"""Whose pair each is, told to the network by other pairs of the same user (PPD; generators/users.py)."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from visalign.config import UserSettings
from visalign.data.preference_pair import PreferencePair
from visalign.data.users import check_users, unseen_users
from visalign.errors import notice
from visalign.generators.base import Conditioning, Generator
from visalign.generators.users import USER
from visalign.rewards.users import load_user_features, pair_tokens
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.fingerprint import fingerprint
from visalign.sampling.seeds import rng_for
from visalign.sampling.users import USERS_FILE, in_turn, write_users
from visalign.storage.out_of_memory import give_back
from visalign.storage.run_folder import RunFolder
from visalign.trainers.offline.encoded_pairs import PAIR_SIDES, EncodedPair

MEASURED_USERS = 64
"""Users whom held-out samples are drawn for, in turn."""

Split = tuple[list[EncodedPair], list[EncodedPair]]


class Everybody:
    """Pairs of which nobody asks whose they are.

    said: what a resumed run must keep. counts: what the report says of the users.
    """

    said: Sequence[tuple] = ()
    counts: dict[str, int] = {}

    def look(self, pair: PreferencePair, item: EncodedPair) -> None:
        """Called for each pair while it is encoded. Raises UserError for one that cannot be read."""

    def split(self, train: list[EncodedPair], held_out: list[EncodedPair]) -> Split:
        """What is trained on and what is measured on. Raises UserError when nothing is left to train on."""
        return train, held_out

    def of(self, items: list[EncodedPair], places: Sequence[int] | None = None) -> Conditioning:
        """What the network is told of the items' users. places: of the items in the order of training, None where they
        are measured on."""
        return {}

    def draw_samples_for(self, generator: Generator, run: RunFolder, first: bool) -> None:
        """Let held-out samples be drawn for the users in turn, and keep whom in the run; first: in this process."""


class Users(Everybody):
    """Each pair's user, by `context` others of their pairs about other prompts, drawn anew at each place.

    Pairs of held-out prompts say nothing of anybody. Users of whom nothing is learnt are known by their other pairs all
    the same, so that their pairs of held-out prompts can be measured on. source: of the data, in words. The features of
    all pairs are kept in the cache, so that a run that is continued reads the same bits.
    """

    def __init__(self, settings: UserSettings, features: str, source: str, cache: EncodingCache, device: str,
                 seed: int):
        self.settings, self.source, self.cache, self.seed = settings, source, cache, seed
        self.said = [("users", settings.context, settings.dropout, features)]
        self.counts = {}
        self._network = load_user_features(features, device)
        self._identity = fingerprint(self._network.network)
        self._pairs: dict[str, list[EncodedPair]] = {}
        self._prompts: dict[str | None, Counter[str]] = {}
        self._learnt: list[str] = []

    def _key(self, media_key: str) -> str:
        return hashlib.sha256(f"user features {self._identity} {media_key}".encode()).hexdigest()

    def look(self, pair: PreferencePair, item: EncodedPair) -> None:
        keys = [self._key(key) for key in (item.chosen_key, item.rejected_key)]
        if self.cache.holds(keys):
            return
        media = pair.media(self.cache.generator.shape.frames)
        self.cache.add_features(dict(zip(keys, media, strict=True)),
                                lambda each: self._network.sample_features([pair.sample(each)])[0])

    def split(self, train: list[EncodedPair], held_out: list[EncodedPair]) -> Split:
        del self._network  # all pairs have been looked at
        give_back()
        self.cache.find_shared()
        check_users(Counter((item.user, item.prompt) for item in once_each(train)), self.settings, self.source)
        unseen = unseen_users({item.user for item in train}, self.settings)
        self._pairs = _by_user(once_each(train))
        learnt = [item for item in train if item.user not in unseen and self._is_known(item)]
        measured = [item for item in held_out if self._is_known(item)]
        self._learnt = sorted({item.user for item in learnt})
        few = [item for item in train + held_out if not self._is_known(item)]
        if few:
            notice(f"data.users: {len(few)} of {len(train) + len(held_out)} pairs are left out, which are nobody's or "
                   f"whose user has not {self.settings.context} others to train on, about other prompts")
        self.counts = {"users": len(self._learnt), "users held out": len(unseen & self._pairs.keys()),
                       "pairs of users with too few": len(few)}
        return learnt, measured

    def _others(self, item: EncodedPair) -> list[EncodedPair]:
        return [other for other in self._pairs.get(item.user, ()) if other.prompt != item.prompt]

    def _is_known(self, item: EncodedPair) -> bool:
        """Whether enough other pairs say whose an item is."""
        if item.user not in self._prompts:
            self._prompts[item.user] = Counter(other.prompt for other in self._pairs.get(item.user, ()))
        of_user = self._prompts[item.user]
        return of_user.total() - of_user[item.prompt] >= self.settings.context

    def of(self, items: list[EncodedPair], places: Sequence[int] | None = None) -> Conditioning:
        rows = []
        for number, item in enumerate(items):
            rng = rng_for("user", self.seed, item.where if places is None else places[number])
            tokens = self._drawn(self._others(item), rng)
            dropped = places is not None and torch.rand((), generator=rng).item() < self.settings.dropout
            rows.append(torch.zeros_like(tokens) if dropped else tokens)
        return {USER: torch.stack(rows)}

    def _drawn(self, among: list[EncodedPair], rng: torch.Generator) -> Tensor:
        """The tokens of as many of these pairs as say who a user is, [N, width]."""
        pairs = [among[place] for place in torch.randperm(len(among), generator=rng)[:self.settings.context].tolist()]
        sides = [self.cache.features([self._key(getattr(pair, f"{side}_key")) for pair in pairs])
                 for side in PAIR_SIDES]
        return pair_tokens(*sides)

    def draw_samples_for(self, generator: Generator, run: RunFolder, first: bool) -> None:
        shown = {user: self._drawn(self._pairs[user], rng_for("user", self.seed, user))
                 for user in self._learnt[:MEASURED_USERS]}
        generator.user_of = in_turn(torch.stack(list(shown.values())))
        if first:
            write_users(run.path / USERS_FILE, shown)


NOBODY_ASKED = Everybody()


def once_each(items: list[EncodedPair]) -> list[EncodedPair]:
    """Each pair of a user once, however often it is visited."""
    return list({(item.user, item.prompt, item.chosen_key, item.rejected_key): item for item in items}.values())


def _by_user(items: list[EncodedPair]) -> dict[str, list[EncodedPair]]:
    found: defaultdict[str, list[EncodedPair]] = defaultdict(list)
    for item in items:
        if item.user:
            found[item.user].append(item)
    return dict(found)
