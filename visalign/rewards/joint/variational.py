"""VPL, variational preference learning: whose taste it is, as a latent that an encoder reads from a few of their pairs.

    code    c = MLP([f_w; f_l]) of each pair that is shown: features of the sample preferred, then of the other one
    user    one self-attention over the codes, their mean, -> mu and log var, each clamped to [-1, 1]
    latent  z = sqrt(d) y / |y|,  y = mu + exp(log var / 2) eps
    reward  r = MLP([f; z])             loss: that of the pairs + w_kl KL( N(mu, var) | N(0, 1) )
    KL      sum over d of (mu^2 + var - 1 - log var) / 2        w_kl rises from a share of it, a half cosine, again and
                                                                again

The reward of a user is the mean of r over a fixed set of draws of eps, the same for all users. Nobody in particular,
and a user of whom nothing is shown, has mu = log var = 0: the mean over people whom the prior makes up. So what is said
of a user of whom little is known goes over into that, where the direction of mu alone, which is next to nothing then,
would be anyone's at random. The KL of the directions z is at most that of the y, so the loss stays a bound.

VPL: Poddar et al. 2024, arXiv 2408.10075 (github.com/WEIRDLabUW/vpl_llm).
Differs from it in: z has the length sqrt(d) whenever a reward is computed; the published code trains so and scores with
z = mu, which is shorter the less is known of a user, a length at which its reward was never trained. A user's reward is
a mean over z instead of that at one. What the clamp holds back may return: a plain clamp has no gradient outside, and
latents whose numbers have all reached an end learn nothing more. Every member and dimension has its own encoder, latent
and reward, and reads a pair's label in its own dimension; ties say nothing. Features are normed first, and pairs that
are shown are read without gradients to the backbone, as its cached ones are. The code of a pair starts as
one of the difference of both. Of r's first layer, the parts for f and for z each start at the scale of their own width.
Recipe: configs/reward_model/voters_variational.yaml.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visalign.config import JointSettings
from visalign.objectives.base import Outcome
from visalign.rewards.joint.heads import NOBODY, Backbone, KnownUsers, MemberLinear
from visalign.rewards.joint.user_heads import UserHead

SLOPE, DRAWS, REFERENCES, MOST_PAIRS = 0.2, 32, 64, 64
"""Of the leaky ReLU; draws of z that a reward is the mean of, half of them the others' negatives; pairs whose features
are kept, to measure the zero and unit of a new user's reward on; pairs by which a user is known, at most."""
COLLAPSED = 0.1
"""Nats, below which the users' latents are as good as the prior."""


def kl_from_prior(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL( N(mean, var) | N(0, 1) ) in nats, summed over the last dimension."""
    return (mean.square() + log_var.exp() - 1 - log_var).sum(-1) / 2


def of_equal_length(y: Tensor) -> Tensor:
    """y at length sqrt(d), over the last dimension."""
    return F.normalize(y, dim=-1) * y.shape[-1]**0.5


def annealed(step: int, period: int, floor: float) -> float:
    """What share of the KL's weight counts at a step: from `floor` to 1 in `period` steps, and again."""
    return floor + (1 - floor) * (1 - math.cos(math.pi * (step % period) / period)) / 2


class Bounded(torch.autograd.Function):
    """x clamped to [-1, 1]; of what lies outside, gradients that lead back pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return slope * ((x.abs() <= 1) | (x * slope > 0))


class MemberMLP(nn.Sequential):
    """Two-layer perceptrons of each member and dimension, after a leaky ReLU of what they read."""

    def __init__(self, settings: JointSettings, outputs: int):
        hidden = settings.width
        super().__init__(nn.LeakyReLU(SLOPE), MemberLinear(settings, hidden, hidden), nn.LeakyReLU(SLOPE),
                         MemberLinear(settings, hidden, outputs))


class Variational(UserHead):
    """features [n, 1 or D, d] and users' places [n] -> rewards [n, E, D].

    Places are those of the users, in order; NOBODY for nobody in particular. While it learns, the features are those of
    both sides of B pairs, and it is shown others: `shown`, features of both sides of P pairs, [2P, 1 or D, d]; `said`,
    their labels [P, D]; `context` [B, C], which of them each pair's user is known by, -1 where there are fewer than C.
    """

    named = "variational"
    reads = ("user", "context", "said")

    def __init__(self, settings: JointSettings, backbone: Backbone, users: KnownUsers):
        super().__init__(settings, backbone, users)
        own = settings.variational
        self.own, self.context_pairs = own, own.context
        shape = settings.members, len(settings.dimensions)
        self.norm = nn.LayerNorm(backbone.features)
        self.pair_first = MemberLinear(settings, 2 * backbone.features, settings.width)
        with torch.no_grad():  # what both show cancels at first, so that what tells them apart is heard
            won, lost = self.pair_first.weight.chunk(2, -2)
            lost.copy_(-won)
        self.pair_rest = MemberMLP(settings, settings.width)
        self.attention = nn.ModuleList(MemberLinear(settings, settings.width, settings.width) for _ in range(3))
        self.to_mean = MemberLinear(settings, settings.width, own.size)
        self.to_log_var = MemberLinear(settings, settings.width, own.size)
        self.of_sample = MemberLinear(settings, backbone.features, settings.width)
        self.of_user = MemberLinear(settings, own.size, settings.width)
        self.rest = MemberMLP(settings, 1)
        half = torch.randn(DRAWS // 2, *shape, own.size, generator=torch.Generator().manual_seed(0))
        self.register_buffer("draws", torch.cat([half, -half]), persistent=False)
        for name in ("user_mean", "user_log_var"):
            self.register_buffer(name, torch.zeros(len(users.names), *shape, own.size))
        self.register_buffer("reference", torch.zeros(2 * REFERENCES, shape[1], backbone.features))
        self.register_buffer("reference_has", torch.ones(2 * REFERENCES, len(settings.dimensions)))
        self._passed: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, features: Tensor, user: Tensor, context: Tensor | None = None, said: Tensor | None = None,
                shown: Tensor | None = None) -> Tensor:
        if shown is None:
            return self.expected(features, *self.known(user))
        mean, log_var = self.posterior(*shown.chunk(2), said, context)
        rewards = self.at(features, self.latent(mean, log_var, torch.randn_like(mean)).repeat(2, 1, 1, 1)[None])[0]
        with torch.no_grad():
            anybody = self.latent(*torch.zeros(2, *mean.shape).to(mean), torch.randn_like(mean))
            self._passed = mean, log_var, self.at(features, anybody.repeat(2, 1, 1, 1)[None])[0]
        return rewards

    def known(self, user: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log var of users' places, [n, E, D, size]; those of the prior for NOBODY."""
        somebody = (user != NOBODY)[:, None, None, None]
        if not len(self.user_mean):
            nothing = torch.zeros(len(user), *self.draws.shape[1:], device=user.device)
            return nothing, nothing
        return self.user_mean[user] * somebody, self.user_log_var[user] * somebody

    def posterior(self, a: Tensor, b: Tensor, said: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log var [B, E, D, size] of users who are known by pairs `context` [B, C] (-1: none) among those of
        features a and b [P, 1 or D, d], of labels `said` [P, D] (1: a, 0: b; ties and NaN say nothing)."""
        a, b = (self.norm(side).expand(-1, said.shape[1], -1) for side in (a, b))
        lost = (said == 0)[..., None]
        both = torch.cat([torch.where(lost, b, a), torch.where(lost, a, b)], -1)
        place = context.clamp(min=0)
        codes = self.pair_rest(self.pair_first(both[:, None]))[place]  # [B, C, E, D, width]
        told = ((said == 0) | (said == 1))[place] & (context >= 0)[..., None]  # [B, C, D]
        query, key, value = (layer(codes) for layer in self.attention)
        scores = torch.einsum("bqedw,bkedw->bedqk", query, key).float() / codes.shape[-1]**0.5
        heard = told.permute(0, 2, 1)[:, None, :, None]
        weights = scores.masked_fill(~heard, torch.finfo(scores.dtype).min).softmax(-1).to(value)
        read = torch.einsum("bedqk,bkedw->bqedw", weights, value) * told[:, :, None, :, None]
        count = told.sum(1)[:, None, :, None]
        mean = read.sum(1) / count.clamp(min=1)
        known = count > 0
        return tuple(Bounded.apply(layer(mean).float()) * known for layer in (self.to_mean, self.to_log_var))

    def latent(self, mean: Tensor, log_var: Tensor, eps: Tensor) -> Tensor:
        """z, of length sqrt(size)."""
        return of_equal_length(mean + (log_var / 2).exp() * eps)

    def at(self, features: Tensor, z: Tensor) -> Tensor:
        """Rewards [S, n, E, D] of features [n, 1 or D, d] for S latents, z [S, 1 or n, E, D, size]."""
        sample = self.of_sample(self.norm(features).expand(-1, z.shape[-2], -1)[:, None])
        return self.rest(sample + self.of_user(z))[..., 0].float()

    def drawn(self, features: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        """Rewards [DRAWS, n, E, D] for each of the fixed draws of z; mean, log_var: [1 or n, E, D, size]."""
        return self.at(features, self.latent(mean, log_var, self.draws[:, None]))

    def expected(self, features: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        """Rewards [n, E, D], their mean over z."""
        return self.drawn(features, mean, log_var).mean(0)

    def belief_of(self, a: Tensor, b: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        last = slice(-MOST_PAIRS, None)
        return self.read(a[last], b[last], said[last])

    def belief_at(self, place: int | None) -> tuple[Tensor, Tensor]:
        (mean,), (log_var,) = self.known(torch.tensor([NOBODY if place is None else place]))
        return mean, log_var

    def views(self, features: Tensor, belief: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
        mean, log_var = belief
        return self.drawn(features, mean[None], log_var[None]), None

    def beside(self, outcome: Tensor, step: int) -> Outcome | None:
        """The KL, weighed. Metrics: kl [B], unweighed, and whether each pair is ordered rightly with a z of the prior,
        [B, D], NaN where it is not decided: where that is as often so, the latents say nothing."""
        mean, log_var, prior = self._passed
        kl = kl_from_prior(mean, log_var).mean((1, 2))
        a, b = prior.mean(1).chunk(2)
        decided = (outcome == 0) | (outcome == 1)
        right = torch.where(decided, ((a > b) == (outcome > 0.5)).float(), float("nan"))
        weight = self.own.kl_weight * annealed(step, self.own.kl_period, self.own.kl_floor)
        return Outcome(weight * kl.mean(), {"kl": kl.detach(), "accuracy_prior": right})

    def read(self, a: Tensor, b: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log var [E, D, size] of the user whose P pairs these are: features a and b [P, 1 or D, d], labels
        [P, D]."""
        (mean,), (log_var,) = self.posterior(a, b, said, torch.arange(len(said), device=said.device)[None])
        return mean, log_var

    @torch.no_grad()
    def keep_user(self, place: int, a: Tensor, b: Tensor, said: Tensor) -> None:
        """Let a user be known by their pairs, as `read`."""
        self.user_mean[place], self.user_log_var[place] = self.read(a, b, said)

    @torch.no_grad()
    def keep_reference(self, features: Tensor, has: Tensor) -> None:
        """Features [2 REFERENCES, 1 or D, d] to measure rewards on, and which of them have which dimension [.., D]."""
        self.reference.copy_(features.expand(-1, self.reference.shape[1], -1))
        self.reference_has.copy_(has)

    @torch.no_grad()
    def standard_of(self, mean: Tensor, log_var: Tensor) -> dict[str, list[float]]:
        """Zero and unit of the reward of one user, mu and log var [E, D, size]: mean and standard deviation in each
        dimension over what was learnt from."""
        values = self.expected(self.reference, mean[None], log_var[None]).mean(1)
        has = self.reference_has > 0
        columns = [column[own] if own.any() else column for column, own in zip(values.unbind(1), has.unbind(1),
                                                                             strict=True)]
        return {"mean": [column.mean().item() for column in columns],
                "std": [max(column.std().item(), 1e-6) for column in columns]}

    @torch.no_grad()
    def about(self) -> dict[str, Any]:
        """The users with the zero and unit of their rewards, and by dimension the mean KL of their latents, nats."""
        names = self.users.names
        standards = [self.standard_of(*each) for each in zip(self.user_mean, self.user_log_var, strict=True)]
        kl = kl_from_prior(self.user_mean, self.user_log_var)[:self.users.learnt].mean((0, 1))
        return {"users": self.users.as_kept() | {"standards": dict(zip(names, standards, strict=True))},
                "latents": {"kl": dict(zip(self.dimensions, kl.tolist(), strict=True))}}

    def told(self) -> list[str]:
        lines = []
        for name, kl in self.about()["latents"]["kl"].items():
            lines.append(f"{name}: the users' latents lie {kl:.2f} nats from their prior" + (
                "" if kl > COLLAPSED else ", so that nothing is known of anybody's taste; lower "
                                          "model.variational.kl_weight, or train longer"))
        return lines
