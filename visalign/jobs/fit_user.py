"""`visalign reward fit-user`: users whom a reward did not know, from a few of their pairs.

All but what is known of the new users stays as it is, to the bit. With ideal points their weights are fitted (PAL,
arXiv 2406.08469: unseen users); with latents the encoder reads them, and nothing is trained (VPL, arXiv 2408.10075).
What is asked in words, `vlm_personal`, is shown the pairs themselves, which are kept for it.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from visalign.data.annotations import Annotation, read_annotations
from visalign.errors import UserError, notice
from visalign.rewards.joint.reward import REWARD_FILES, JointReward
from visalign.rewards.joint.variational import MOST_PAIRS
from visalign.rewards.registry import CARD, build_reward
from visalign.rewards.vlm import PersonalJudge
from visalign.rewards.vlm.history import Preferred, write_history
from visalign.storage.files import write_atomically
from visalign.storage.hashed_users import hashed_user
from visalign.storage.weights import read_tensors, write_tensors
from visalign.trainers.reward.contexts import labels_of

FIT_BATCH = 32


@dataclass(frozen=True)
class NewUser:
    """rows: to be added to tensors of the reward, by their names. right: which of the user's decided labels are ordered
    so by the reward of nobody in particular and by theirs, [labels, 2]. standard: zero and unit of their rewards."""

    rows: dict[str, Tensor]
    right: Tensor
    standard: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class FittedUsers:
    """pairs: of each new user, by hashed name. before, after: share of them that the reward of nobody in particular
    orders as their users do, and that their own do; None where all are ties."""

    folder: Path
    pairs: dict[str, int]
    before: float | None
    after: float | None
    use: str


def fit_users(source: str, path: str, out: Path, name: str | None = None, media_root: str | None = None,
              device: str = "cpu") -> FittedUsers:
    """Write to `out` the reward of `source` that also knows the users of the pairs at `path`.

    name: whose all pairs are; None where the table's column user says so. Raises UserError.
    """
    reward = build_reward(source, device)
    if isinstance(reward, PersonalJudge):
        return keep_pairs(reward, path, out, name, media_root)
    if not isinstance(reward, JointReward) or reward.settings.head not in FITS:
        raise UserError(f"reward {source}: knows no users; fit-user takes a run of `visalign reward train` with "
                        "model.ideal_points, model.variational or model.groups, such as that of reward_model/voters, "
                        "or a vlm_personal")
    check_new(out)
    own = by_user(read_annotations(path, reward.dimensions, media_root), name, path)
    known = sorted(own.keys() & set(reward.users.names))
    if known:
        raise UserError(f"reward {source}: knows user {known[0]} of {path} already; leave their pairs out")
    reward.check()
    fits = {user: FITS[reward.settings.head](reward, items) for user, items in own.items()}
    shutil.copytree(reward.folder, out, ignore=shutil.ignore_patterns(CARD))  # a card is of the users known then
    add_users(out, fits)
    right = torch.cat([each.right for each in fits.values()])
    before, after = right.mean(0).tolist() if len(right) else (None, None)
    return FittedUsers(out, {user: len(items) for user, items in own.items()}, before, after,
                       f"{{kind: joint, source: {out}, user: {name or 'NAME'}}}")


def keep_pairs(reward: PersonalJudge, path: str, out: Path, name: str | None = None,
               media_root: str | None = None) -> FittedUsers:
    """Write to the folder `out` what the users of the pairs at `path` preferred, for the reward to see: of each the
    last ones, four times what it shows at once. Ties are left out. Raises UserError."""
    check_new(out)
    items = [item for item in read_annotations(path, reward.dimensions, media_root)
             if item.outcome.get(reward.dimension) in (0.0, 1.0)]
    if not items:
        raise UserError(f"data {path}: names no winner in {reward.dimension}, so nothing says what its users prefer")
    own = {user: theirs[-4 * reward.examples:] for user, theirs in by_user(items, name, path).items()}

    def preferred(item: Annotation) -> Preferred:
        sides = "ab" if item.outcome[reward.dimension] == 1 else "ba"
        chosen, rejected = (tuple(item.sample(side, reward.frames).frames(reward.frames)) for side in sides)
        return Preferred(item.prompt, chosen, rejected)

    write_history(out, {user: (preferred(item) for item in theirs) for user, theirs in own.items()})
    return FittedUsers(out, {user: len(theirs) for user, theirs in own.items()}, None, None,
                       f"{{kind: vlm_personal, url: ..., history: {out}, user: {name or 'NAME'}}}")


def check_new(out: Path) -> None:
    """Raise UserError for what exists."""
    if out.exists():
        raise UserError(f"out {out}: exists already; choose another name or delete it")


def by_user(items: list[Annotation], name: str | None, path: str) -> dict[str, list[Annotation]]:
    """Whose pairs there are, by hashed names. Raises UserError where a pair is nobody's, or of another than `name`."""
    found = defaultdict(list)
    for item in items:
        if item.user is None and name is None:
            raise UserError(f"{item.where}: does not say whose pair it is; add the column user, or give --name for all "
                            f"pairs of {path}")
        if item.user is not None and name is not None and item.user != hashed_user(name):
            raise UserError(f"{item.where}: is of another user than --name {name}; leave --name out to fit each user "
                            f"of {path}")
        found[item.user or hashed_user(name)].append(item)
    return dict(found)


@torch.no_grad()
def fit_weights(reward: JointReward, items: list[Annotation]) -> NewUser:
    """A new user of a reward with ideal points, by weights of the prototypes."""
    sides = [mapped(reward, items, side) for side in "ab"]
    outcome = labels_of(items, reward.dimensions)
    head = reward.network.heads.cpu()
    with torch.enable_grad():
        weights = head.fitted(*sides, outcome)
    w = weights.softmax(-1).expand(len(items), -1, -1, -1)
    margins = []
    for nobody in (True, False):
        everybody = torch.full((len(items),), nobody)
        a, b = (head.rewards(*side, w, everybody).mean(1) for side in sides)
        margins.append(a - b)
    reward.to(reward.device)
    return NewUser({"heads.weights": weights}, told_by_margins(margins, outcome))


@torch.no_grad()
def read_latent(reward: JointReward, items: list[Annotation]) -> NewUser:
    """A new user of a reward with latents, as its encoder reads their pairs. Raises UserError where none is decided."""
    outcome = labels_of(items, reward.dimensions)
    if not ((outcome == 0) | (outcome == 1)).any():
        raise UserError(f"{items[0].where}: none of this user's {len(items)} pairs is decided, and a tie says nothing "
                        "of whose taste it is; add one that is")
    if len(items) > MOST_PAIRS:
        notice(f"{items[0].where}: of this user's {len(items)} pairs the first {MOST_PAIRS} are read")
    a, b = (torch.cat(features_of(reward, items, side)).cpu() for side in "ab")
    head = reward.network.heads.cpu()
    latent = head.read(a[:MOST_PAIRS], b[:MOST_PAIRS], outcome[:MOST_PAIRS])
    margins = []
    for mean, log_var in (torch.zeros(2, *latent[0].shape), latent):
        won, lost = (head.expected(side, mean[None], log_var[None]).mean(1) for side in (a, b))
        margins.append(won - lost)
    standard = head.standard_of(*latent)
    reward.to(reward.device)
    return NewUser(dict(zip(("heads.user_mean", "heads.user_log_var"), latent, strict=True)),
                   told_by_margins(margins, outcome), standard)


@torch.no_grad()
def find_groups(reward: JointReward, items: list[Annotation]) -> NewUser:
    """Of which groups a new user is, by how well each explains their pairs."""
    outcome = labels_of(items, reward.dimensions)
    head = reward.network.heads
    a, b = (torch.cat([head.each(features) for features in features_of(reward, items, side)]) for side in "ab")
    shares = head.fitted(a, b, outcome.to(a.device))
    margins = []
    for weights in (head.population(), shares):
        won, lost = ((side.unflatten(1, shares.shape) * weights[..., None]).sum(2).mean(1) for side in (a, b))
        margins.append((won - lost).cpu())
    rows = {"pairs": torch.ones(()), "fit": shares.log().cpu(), "seen": torch.ones(())}  # softmax(1 log r) = r
    return NewUser({f"heads.fits.{name}": row for name, row in rows.items()}, told_by_margins(margins, outcome))


FITS: dict[str, Callable[[JointReward, list[Annotation]], NewUser]] = {
    "ideal_points": fit_weights, "variational": read_latent, "groups": find_groups}
"""By the head of the reward."""


def told_by_margins(margins: list[Tensor], outcome: Tensor) -> Tensor:
    """Which decided labels each of several margins [n, D] orders so, [labels, margins]."""
    decided = (outcome == 0) | (outcome == 1)
    return torch.stack([((margin > 0) == (outcome > 0.5))[decided].float() for margin in margins], 1)


def features_of(reward: JointReward, items: list[Annotation], side: str) -> list[Tensor]:
    """What the head reads of one side of the pairs, in batches [n, 1 or D, d]."""
    network, found = reward.network, []
    for start in range(0, len(items), FIT_BATCH):
        samples = [item.sample(side, reward.settings.frames) for item in items[start:start + FIT_BATCH]]
        inputs = {name: each for name, each in reward.inputs_of(samples).items() if name not in network.heads.reads}
        found.append(network.backbone(**inputs))
    return found


def mapped(reward: JointReward, items: list[Annotation], side: str) -> tuple[Tensor, Tensor]:
    """What the head maps one side of the pairs to, on the CPU; prototypes of every prompt once."""
    x, points = [], []
    for features in features_of(reward, items, side):
        ours, prototypes = reward.network.heads.mapped(features)
        x.append(ours.cpu())
        points.append(prototypes.cpu().expand(-1, len(ours), -1, -1, -1))
    return torch.cat(x), torch.cat(points, 1)


def add_users(folder: Path, users: dict[str, NewUser]) -> None:
    """Let a reward's folder know further users, by their hashed names."""
    file = folder / REWARD_FILES[1]
    tensors = read_tensors(file, f"reward {file}")
    for name in next(iter(users.values())).rows:
        rows = torch.stack([user.rows[name] for user in users.values()])
        tensors[name] = torch.cat([tensors[name], rows.to(tensors[name])])
    write_tensors(file, tensors)
    saved = json.loads((folder / REWARD_FILES[0]).read_text())
    saved["users"]["names"] += users
    if standards := {name: user.standard for name, user in users.items() if user.standard}:
        saved["users"]["standards"] |= standards
    write_atomically(folder / REWARD_FILES[0], (json.dumps(saved, indent=2) + "\n").encode())
