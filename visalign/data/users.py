"""Whose pairs can teach who prefers what: a user's pair needs others of the same user that say who they are."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping

from visalign.config import UserSettings
from visalign.errors import UserError
from visalign.storage.hashed_users import hashed_user

PairsOfUsers = Mapping[tuple[str | None, str], int]
"""How many pairs there are of each user (None: nobody) and prompt."""

PLAIN = "what all prefer alike is learnt without data.users and with model.tuning=lora, as configs/sdxl_dpo.yaml and " \
        "configs/sd3_flow_dpo.yaml do"


def check_users(of_users: PairsOfUsers, settings: UserSettings, source: str) -> None:
    """Raise UserError where no pair says whose it is, or no user has enough of them, or a held-out one is not there."""
    users = Counter()
    for (user, _), count in of_users.items():
        users[user] += count
    without = users.pop(None, 0)
    if not users:
        raise UserError(f"data {source}: none of {without} pairs says whose it is, and data.users learns who prefers "
                        f"what; add the column user (user_id in Pick-a-Pic's format), or else {PLAIN}")
    for name in settings.held_names:
        if hashed_user(name) not in users:
            raise UserError(f"data.users.holdout {name}: no pair of {source} is of a user of this name")
    unseen = unseen_users(users, settings)
    if not any(user and user not in unseen and users[user] - count >= settings.context
               for (user, _), count in of_users.items()):
        user, most = max(((user, count) for user, count in users.items() if user not in unseen),
                         key=lambda each: each[1], default=("", 0))
        why = f"all {len(users)} users are held out" if not user else \
            f"the user with the most pairs, {user}, has {most}, or not enough about different prompts"
        raise UserError(f"data {source}: no user to train on has the {settings.context + 1} pairs that "
                        f"data.users.context {settings.context} needs (one to learn from, and {settings.context} of "
                        f"other prompts to say who it is); {why}; lower data.users.context, or else {PLAIN}")


def unseen_users(users: Collection[str | None], settings: UserSettings) -> set[str]:
    """The users that nothing is learnt from: those named, or the share that their hashes choose."""
    if settings.held_names:
        return {hashed_user(name) for name in settings.held_names}
    return {user for user in users if user and _place_of(user) < settings.holdout}


def _place_of(user: str) -> float:
    """Where in [0, 1) a user's hash puts them."""
    return int(hashlib.sha256(f"held out user {user}".encode()).hexdigest()[:8], 16) / 2**32
