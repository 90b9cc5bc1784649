"""MaxMin-RLHF: a few groups of users with a reward each, and which user is of which group, found together.

    E   r_uk = softmax_k ( n_u F_uk ),  F_uk the mean of log P_k(label) over the n_u pairs of user u
    M   loss = sum_k r_uk ( -log P_k(label) )                 group k learns from its users' pairs

A policy that is paid by the least of the groups' rewards (advantage.combine: worst, one term a group) leaves no group
behind, where one that is paid by their mean serves the largest.

MaxMin-RLHF: Chakraborty et al. 2024, arXiv 2402.08925 (its abstract; the algorithm is derived).
Differs from the paper in: responsibilities are soft; both steps are taken with every batch, so F is a running mean of
what users' labels cost when they were last seen; each member of an ensemble finds groups of its own.
Recipe: configs/reward_model/groups.yaml.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visalign.config import JointSettings
from visalign.objectives.base import Outcome
from visalign.rewards.joint.heads import Backbone, Heads, KnownUsers
from visalign.rewards.joint.user_heads import UserHead


class UserFits(nn.Module):
    """How well each group explains each user's labels. pairs: n_u, [U]. memory: the share of F that stays when a user
    is seen again."""

    def __init__(self, pairs: Tensor, members: int, groups: int, memory: float):
        super().__init__()
        self.memory = memory
        self.register_buffer("pairs", pairs.float())
        self.register_buffer("fit", torch.zeros(len(pairs), members, groups))
        self.register_buffer("seen", torch.zeros(len(pairs)))

    @torch.no_grad()
    def see(self, users: Tensor, log_likelihood: Tensor) -> None:
        """Move F of the users of a batch, places [B], towards the mean of log P [B, E, K] over their pairs; NaN is of
        pairs without a label."""
        known = ~log_likelihood.isnan().flatten(1).any(1) & (users >= 0)
        for place in users[known].unique():
            mean = log_likelihood[known & (users == place)].mean(0)
            stays = self.memory if self.seen[place] else 0.0
            self.fit[place] = stays * self.fit[place] + (1 - stays) * mean
            self.seen[place] = 1.0

    def shares(self) -> Tensor:
        """r, [U, E, K]."""
        return (self.pairs[:, None, None] * self.fit).softmax(-1)


class TasteGroups(UserHead):
    """features [B, 1 or D, d] and users' places [B] -> rewards [B, E, D] of the users' groups, each as far as the user
    is of it; while it learns, those of all groups, [B, E K, D], the groups of one member together.

    Places are those of the users, in order; after them each group, alone; NOBODY: the mean over groups, weighted by how
    much of the users each makes up.
    """

    named = "groups"

    def __init__(self, settings: JointSettings, backbone: Backbone, users: KnownUsers):
        super().__init__(settings, backbone, users)
        self.count = settings.groups.count
        self.each = Heads(backbone.features, len(settings.dimensions), self.members * self.count, settings.width)
        pairs = torch.tensor(users.pairs or (1,) * len(users.names))
        self.fits = UserFits(pairs, self.members, self.count, settings.groups.memory)
        self._passed: tuple[Tensor, Tensor] | None = None

    def read_as(self, features: Tensor) -> Tensor:
        return self.each.norm(features)

    def forward(self, features: Tensor, user: Tensor) -> Tensor:
        rewards = self.each(features)
        if self.training:
            self._passed = rewards.detach(), user
            return rewards
        return self.mixed(rewards, user)

    def mixed(self, rewards: Tensor, user: Tensor) -> Tensor:
        """Rewards [B, E, D] of users from those of all groups, [B, E K, D]."""
        return (rewards.unflatten(1, (self.members, self.count)) * self.weights()[user][..., None]).sum(2)

    def weights(self) -> Tensor:
        """r of every place, [U + K + 1, E, K]; the last one, at NOBODY, is the population's."""
        alone = torch.eye(self.count, device=self.fits.fit.device)[:, None].expand(-1, self.members, -1)
        return torch.cat([self.fits.shares(), alone, self.population()[None]])

    def population(self) -> Tensor:
        """Mean r over the users that were learnt from, [E, K]; of none, all groups alike."""
        if not self.users.learnt:
            return torch.full((self.members, self.count), 1 / self.count, device=self.fits.fit.device)
        return self.fits.shares()[:self.users.learnt].mean(0)

    def belief_of(self, a: Tensor, b: Tensor, said: Tensor) -> Tensor:
        """r [E, K]."""
        return self.fitted(self.each(a), self.each(b), said)

    def belief_at(self, place: int | None) -> Tensor:
        return self.population() if place is None else self.weights()[place]

    def views(self, features: Tensor, belief: Tensor) -> tuple[Tensor, Tensor | None]:
        of_groups = self.each(features).unflatten(1, (self.members, self.count))
        return of_groups.movedim(2, 0), belief.T[:, :, None, None].expand(-1, -1, 1, of_groups.shape[-1])

    def filters(self, told: dict[str, Tensor],
                together: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], ...]:
        """Both steps: from losses [B, E K, D] of a batch to r [B, E K] of its pairs' users."""
        users = told["user"].chunk(2)[0].to(self.fits.fit.device)

        def responsible(losses: Tensor) -> Tensor:
            own = -losses.nanmean(2).unflatten(1, (self.members, self.count))
            self.fits.see(together(users), together(own))
            return self.fits.shares()[users].flatten(1)

        return (responsible,)

    def beside(self, outcome: Tensor, step: int) -> Outcome | None:
        """Nothing is learnt beside. Metrics: whether each pair is ordered rightly by its user's groups, [B, D], NaN
        where it is not decided."""
        rewards, user = self._passed
        a, b = self.mixed(rewards, user).mean(1).chunk(2)
        decided = (outcome == 0) | (outcome == 1)
        right = torch.where(decided, ((a > b) == (outcome > 0.5)).float(), float("nan"))
        return Outcome(torch.zeros((), device=rewards.device), {"accuracy": right})

    def remembered(self) -> dict[str, nn.Module]:
        return {"groups": self.fits}

    @torch.no_grad()
    def about(self) -> dict[str, Any]:
        """The users; of the groups of each member, the share of users that each makes up, and the mean entropy of r as
        a share of log K (0: everyone is of one group, 1: nobody is of any)."""
        r = self.fits.shares()[:self.users.learnt]
        entropy = torch.special.entr(r).sum(-1).mean() / math.log(self.count)
        return {"users": self.users.as_kept(),
                "groups": {"entropy": entropy.item(), "population": self.population().tolist()}}

    def told(self) -> list[str]:
        said = self.about()["groups"]
        lines = [f"groups{f' of member {member}' if self.members > 1 else ''} make up "
                 f"{' and '.join(f'{share:.0%}' for share in shares)} of the users"
                 for member, shares in enumerate(said["population"])]
        if min(map(min, said["population"])) * self.users.learnt < 0.5:
            lines.append("a group has no user: take fewer model.groups.count, or train longer")
        return [*lines, f"who is of which group is open to {said['entropy']:.0%} of the most it could be"]

    def fitted(self, a: Tensor, b: Tensor, outcome: Tensor) -> Tensor:
        """r [E, K] of a new user from the rewards of all groups of both sides of their pairs, [B, E K, D], and who won
        [B, D] (1: a, 0: b; all else does not count): the likelihood of the labels, with the population as the prior."""
        won = outcome[:, None]
        margin = torch.where(won > 0.5, a - b, b - a)
        decided = ((won == 0) | (won == 1)).expand_as(margin)
        fit = torch.where(decided, F.logsigmoid(margin), 0.0).sum((0, 2)).unflatten(0, (self.members, self.count))
        return (fit + self.population().clamp(min=1e-6).log().to(fit)).softmax(-1)
