"""Who a person may be, by a reward that knows users: from pairs that they have answered, or by their name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from visalign.config.reward import USER_HEADS
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.joint.heads import NOBODY
from visalign.rewards.joint.reward import JointReward
from visalign.storage.hashed_users import hashed_user


class Persons:
    """Features of samples, read once, and margins of pairs for everybody that a person may be. All on the CPU, where
    the head stays; features [n, 1 or D, d].

    reward: with model.variational, model.ideal_points or model.groups. Raises UserError for another one.
    """

    def __init__(self, reward: object, what: str):
        if not isinstance(reward, JointReward) or not reward.users.names or (
                reward.settings.head not in USER_HEADS):
            raise UserError(f"{what}: knows nobody's taste, so no pair tells it more of a person; take a run of "
                            "`visalign reward train` with model.variational, model.ideal_points or model.groups")
        self.reward = reward

    @torch.no_grad()
    def features(self, samples: list[Sample]) -> Tensor:
        """What the head reads of samples. Raises UserError for one that the reward refuses."""
        for sample in samples:
            if reason := self.reward.refusal(sample):
                raise UserError(f"reward {self.reward.name}: cannot read a sample ({reason})")
        network = self.reward.network
        inputs = {name: tensor.to(self.reward.device) for name, tensor in network.backbone.collate(samples).items()}
        return network.backbone(**inputs).float().cpu()

    @torch.no_grad()
    def margins(self, name: str, answered: Sequence[tuple[Tensor, Tensor, float]],
                asked: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor | None]:
        """Margins [S, E, N, D], in log-odds, of N pairs for S people that somebody may be, and the weights of those,
        [S, E, 1, D], where they are not alike.

        name: as votes have it; counts where nothing was answered. answered: features of both sides [1 or D, d], and who
        won (1: the first, 0: the second; ties say nothing). asked: features of both sides.
        """
        head = self.reward.network.heads.cpu()
        decided = [pair for pair in answered if pair[2] in (0.0, 1.0)]
        if decided:
            a, b = (torch.stack([pair[side] for pair in decided]) for side in (0, 1))
            said = torch.tensor([[pair[2]] for pair in decided]).expand(-1, len(self.reward.dimensions))
            belief = head.belief_of(a, b, said)
        else:
            place = head.place_of(hashed_user(name))
            belief = head.belief_at(None if place == NOBODY else place)
        (a, weights), (b, _) = (head.views(torch.stack([pair[side] for pair in asked]), belief) for side in (0, 1))
        return (a - b).transpose(1, 2), weights
