"""PAL: a few prototypes in one space, and each user a mixture of them.

    x' = f(features of prompt and sample) in R^d         w_u = softmax(W_u), W_u in R^K, N(0, 1) at the start
    kind A:  a_u = sum_k w_uk P_k, P learnt              kind B:  a_u = sum_k w_uk g_k(features of the prompt)
    norm:    r = -|x' - a_u|                             angle:   r = c cos(x', a_u), c = exp(s) <= 100, 1/.07 at first

The margin of two samples is r_a - r_b, and any loss on margins learns from it. For nobody in particular a sample's
reward is the mean over prototypes, each as near as it is, weighted by the mean w of the users that were learnt from.

PAL: Chen et al. 2024, arXiv 2406.08469 (github.com/RamyaLab/pluralistic-alignment).
Differs from it in: f, g and P are each ensemble member's and dimension's own, and so are a user's weights; dropout is
one number; a prototype that nobody prefers may be put beside the most preferred one; the weights of a new user
(`fitted`, all else frozen) have a prior, a normal density about those of the mean user.
Recipe: configs/reward_model/voters.yaml.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visalign.config import JointSettings
from visalign.rewards.joint.heads import NOBODY, Backbone, KnownUsers, vectors
from visalign.rewards.joint.user_heads import UserHead

FIT_STEPS, FIT_RATE = 200, 0.1
"""Of Adam, with which a new user's weights are found."""


def norm_reward(x: Tensor, a: Tensor) -> Tensor:
    """-|x' - a|, over the last dimension; not squared."""
    return -torch.linalg.vector_norm(x - a, dim=-1)


class Norm(nn.Module):
    """x' and ideal points [..., E, D, d] -> rewards [..., E, D]."""

    def __init__(self, members: int, dimensions: int):
        super().__init__()

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return norm_reward(x, a)


class Angle(nn.Module):
    """As Norm, by the angle, with a learnt scale of each member and dimension."""

    LARGEST, FIRST = 100.0, 1 / 0.07

    def __init__(self, members: int, dimensions: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((members, dimensions), self.FIRST).log())

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return self.log_scale.exp().clamp(max=self.LARGEST) * F.cosine_similarity(x, a, dim=-1)


DISTANCES: dict[str, type[nn.Module]] = {"norm": Norm, "angle": Angle}


class LearntPoints(nn.Module):
    """Kind A: prototypes [K, 1, E, D, d] of every prompt."""

    def __init__(self, settings: JointSettings, backbone: Backbone):
        super().__init__()
        ideal = settings.ideal_points
        self.points = nn.Parameter(torch.randn(ideal.prototypes, 1, settings.members, len(settings.dimensions),
                                               ideal.size))

    def forward(self, features: Tensor) -> Tensor:
        return self.points

    @torch.no_grad()
    def beside(self, e: int, d: int, empty: int, taken: int, rng: torch.Generator) -> None:
        """Put a prototype of one member and dimension beside another one."""
        self.points[empty, 0, e, d] = nudged(self.points[taken, 0, e, d], rng)


class PointsOfPrompt(nn.Module):
    """Kind B: prototypes [K, B, E, D, d] of each sample's prompt."""

    def __init__(self, settings: JointSettings, backbone: Backbone):
        super().__init__()
        self.count, self.prompt = settings.ideal_points.prototypes, backbone.prompt
        self.of_prompt = vectors(settings, backbone.prompt.stop - backbone.prompt.start,
                                 self.count * settings.ideal_points.size)

    def forward(self, features: Tensor) -> Tensor:
        return self.of_prompt(features[..., self.prompt]).unflatten(-1, (self.count, -1)).movedim(-2, 0)

    @torch.no_grad()
    def beside(self, e: int, d: int, empty: int, taken: int, rng: torch.Generator) -> None:
        last = self.of_prompt.second[e, d].unflatten(-1, (self.count, -1))  # [hidden, K, size], a view
        last[:, empty] = nudged(last[:, taken], rng)


def nudged(tensor: Tensor, rng: torch.Generator) -> Tensor:
    """A tensor moved by a tenth of its own spread."""
    return tensor + 0.1 * tensor.std() * torch.randn(tensor.shape, generator=rng).to(tensor)


KINDS: dict[str, type[nn.Module]] = {"A": LearntPoints, "B": PointsOfPrompt}


class IdealPoints(UserHead):
    """features [B, 1 or D, d] and users' places [B] -> rewards [B, E, D].

    Places are those of the users, in order; after them each prototype, alone; NOBODY for nobody in particular.
    """

    named = "ideal_points"

    def __init__(self, settings: JointSettings, backbone: Backbone, users: KnownUsers):
        super().__init__(settings, backbone, users)
        ideal = settings.ideal_points
        self.count, self.every, self.equal_users = ideal.prototypes, ideal.reseed, ideal.equal_users
        shape = settings.members, len(settings.dimensions)
        self.project, self.dropout = vectors(settings, backbone.features, ideal.size), nn.Dropout(ideal.dropout)
        self.prototypes = KINDS[ideal.kind](settings, backbone)
        self.near = DISTANCES[ideal.distance](*shape)
        self.weights = nn.Parameter(torch.randn(len(users.names), *shape, self.count))

    @classmethod
    def own_rates(cls, settings: JointSettings) -> dict[str, float]:
        return {"weights": settings.ideal_points.user_lr_scale}

    def read_as(self, features: Tensor) -> Tensor:
        return self.project.norm(features)

    def forward(self, features: Tensor, user: Tensor) -> Tensor:
        x, points = self.mapped(features)
        return self.rewards(x, points, self.mixed()[user], user == NOBODY)

    def filters(self, told: dict[str, Tensor],
                together: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], ...]:
        """Where users count alike, one over the pairs of each pair's user, in means of it."""
        if not self.equal_users:
            return ()
        share = 1 / torch.tensor(self.users.pairs, dtype=torch.float32)
        weight = (share * len(share) / share.sum())[told["user"].chunk(2)[0]]
        return (lambda losses: weight.to(losses)[:, None].expand(losses.shape[:2]),)

    def mapped(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """x' [B, E, D, d], and prototypes [K, 1 or B, E, D, d]."""
        return self.dropout(self.project(features)), self.prototypes(features)

    def mixed(self) -> Tensor:
        """w of every place, [U + K, E, D, K]."""
        alone = torch.eye(self.count, device=self.weights.device)[:, None, None]
        return torch.cat([self.weights.softmax(-1), alone.expand(-1, *self.weights.shape[1:])])

    def rewards(self, x: Tensor, points: Tensor, w: Tensor, nobody: Tensor) -> Tensor:
        """Rewards [B, E, D] of what `mapped` gives, for users of weights [B, E, D, K]; where it is for nobody [B], the
        mean over prototypes."""
        ideal = (w.movedim(-1, 0)[..., None] * points).sum(0)
        crowd = (self.population().movedim(-1, 0)[:, None] * self.near(x, points)).sum(0)
        return torch.where(nobody[:, None, None], crowd, self.near(x, ideal))

    def population(self) -> Tensor:
        """Mean w over the users that were learnt from, [E, D, K], without gradients."""
        return self.weights[:self.users.learnt].detach().softmax(-1).mean(0)

    @torch.no_grad()
    def about(self) -> dict[str, Any]:
        """The users, and by dimension: mean entropy of w as a share of log K (1: users have no taste of their own), and
        how many of the members' prototypes no user prefers to the others; population [E, D, K]."""
        w = self.weights[:self.users.learnt].softmax(-1)
        entropy = torch.special.entr(w).sum(-1).mean((0, 1)) / math.log(self.count)
        used = F.one_hot(w.argmax(-1), self.count).sum(0) > 0
        return {"users": self.users.as_kept(), "prototypes": {
            "entropy": dict(zip(self.dimensions, entropy.tolist(), strict=True)),
            "empty": dict(zip(self.dimensions, (~used).sum((0, 2)).tolist(), strict=True)),
            "population": self.population().tolist()}}

    def told(self) -> list[str]:
        said = self.about()["prototypes"]
        count = self.count * self.weights.shape[1]
        lines = [f"{name}: the users' weights have {share:.0%} of the largest entropy" for name, share in
                 said["entropy"].items()]
        return lines + [f"{name}: {empty} of {count} prototypes (of all members) are preferred by no user; take fewer "
                        "model.ideal_points.prototypes, or set model.ideal_points.reseed"
                        for name, empty in said["empty"].items() if empty]

    @torch.no_grad()
    def after_step(self, done: int) -> None:
        """Every `reseed` steps, put a prototype that no user prefers beside the most preferred one, and give it half of
        its users: the two are exchanged in their weights, so that rewards change little."""
        if not self.every or done % self.every:
            return
        rng = torch.Generator().manual_seed(done)
        for e, d, empty in itertools.product(*map(range, self.weights.shape[1:])):
            preferred = self.weights[:, e, d].argmax(-1)
            users = preferred.bincount(minlength=self.count)
            taken = int(users.argmax())
            if users[empty] or users[taken] < 2:
                continue
            self.prototypes.beside(e, d, empty, taken, rng)
            order = list(range(self.count))
            order[empty], order[taken] = taken, empty
            movers = (preferred == taken).nonzero().flatten()[1::2]
            self.weights[movers, e, d] = self.weights[movers, e, d][:, order]

    def fitted(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], outcome: Tensor) -> Tensor:
        """W [E, D, K] of a new user from what `mapped` gives of both sides of their pairs, and who won [B, D] (1: a, 0:
        b, 0.5: tie, NaN: no label): the most probable ones given the logistic loss and the prior."""
        prior = self.population().log()
        found = prior.clone().requires_grad_()
        optimizer = torch.optim.Adam([found], FIT_RATE)
        somebody = torch.zeros(len(outcome), dtype=torch.bool, device=outcome.device)
        won = outcome[:, None].expand(-1, *prior.shape[:2])
        for _ in range(FIT_STEPS):
            w = found.softmax(-1).expand(len(outcome), -1, -1, -1)
            margin = self.rewards(*a, w, somebody) - self.rewards(*b, w, somebody)
            losses = F.binary_cross_entropy_with_logits(margin, won.nan_to_num(0.5), reduction="none")
            loss = losses[won.isfinite()].sum() + (found - prior).square().sum() / 2
            found.grad = torch.autograd.grad(loss, found)[0]
            optimizer.step()
        return found.detach()

    def belief_of(self, a: Tensor, b: Tensor, said: Tensor) -> Tensor:
        """w [E, D, K], which is read as how likely the person is each of the prototypes."""
        sides = self.mapped(a), self.mapped(b)
        with torch.enable_grad():
            return self.fitted(*sides, said).softmax(-1)

    def belief_at(self, place: int | None) -> Tensor:
        return self.population() if place is None else self.weights[place].detach().softmax(-1)

    def views(self, features: Tensor, belief: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.near(*self.mapped(features)), belief.movedim(-1, 0)[:, :, None]
