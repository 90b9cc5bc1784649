"""From an epoch's rewards to the advantages that its samples, or their sampling steps, are trained with.

Whatever an advantage rule asks for beside the rewards is gathered here, from all processes: likelihoods, kinds, noise
levels, what a guide said of steps, where trees divide. All of them come to the same advantages.
"""

import torch
from accelerate import Accelerator
from torch import Tensor

from visalign.config import OnlineConfig
from visalign.config.load import build_advantage
from visalign.errors import UserError
from visalign.objectives.advantages import Advantages, History
from visalign.objectives.rarity import kind_sizes, kinds_a_group
from visalign.trainers.online.collect import RolloutBatch
from visalign.trainers.online.guide import SaidByGuide
from visalign.trainers.online.scoring import RewardSet
from visalign.trainers.online.trunks import splits_before
from visalign.trainers.online.views import TermView, check_levels


class Crediting:
    """An advantage rule with what it remembers. names: of the rewards. kept: what of it belongs into a checkpoint.

    Raises UserError where rewards are divided by noise level and the view's terms lie on one side.
    """

    def __init__(self, config: OnlineConfig, reward_set: RewardSet | None, view: TermView, accelerator: Accelerator):
        self.rule, self.rollout, self.view = build_advantage(config.advantage), config.rollout, view
        self.accelerator = accelerator
        self.names = reward_set.names if reward_set else ("vote",)
        self.mixture = self.rule.mixture_of(self.names, reward_set.weights if reward_set else torch.ones(1))
        self.history = History(self.rule.history) if self.rule.history else None
        check_levels(self.rule, view)

    @property
    def kept(self) -> dict[str, object]:
        found = {"history": self.history, "mixture": self.mixture if self.rule.finds_weights else None}
        return {name: each for name, each in found.items() if each is not None}

    def figures(self) -> dict[str, float]:
        """What is logged of the rewards' weights."""
        return self.mixture.figures(self.names)

    def advantages(self, epoch: int, collected: RolloutBatch, said: SaidByGuide | None) -> Advantages:
        """Raises UserError for rewards that the rule cannot take."""
        self.mixture.see(collected.rewards.double())
        weights = self.mixture.weights
        if self.history is not None:
            total = (collected.rewards.double() * weights).sum(1)
            self.history.add(collected.prompts, total.tolist())
        try:
            sizes = kind_sizes(collected.features, collected.groups, self.rule.kinds) if self.rule.rarity else None
            of_steps = None if said is None else self.rule.of_steps(*said, collected.groups)
            found = self.rule(collected.rewards, weights, collected.groups, self.names, self._likelihood(collected),
                              self.history, sizes, of_steps, self._levels(epoch, collected))
        except ValueError as error:
            raise UserError(f"advantage: {error}") from None
        if self.rollout.branches:
            depths = splits_before(self.rollout, next(iter(collected.samples.values())).steps)
            found = self.rule.by_edge(found, collected.rewards, weights, collected.groups,
                                      len(self.rollout.split_steps), depths)
        return found if sizes is None else found._replace(kinds=kinds_a_group(sizes, collected.groups))

    def said_by_guide(self, collected: RolloutBatch) -> SaidByGuide | None:
        """The guide's rewards around all samples' steps, where something is learnt from them."""
        if not self.rule.process_weight:
            return None
        rows = torch.stack([torch.cat([torch.tensor([place]), sample.steps, sample.values.flatten()]).double()
                            for place, sample in collected.samples.items()])
        steps, values = self._of_everyone(rows).tensor_split([collected.stored], 1)
        return SaidByGuide(values.unflatten(1, (-1, 2)), steps.long())

    def _levels(self, epoch: int, collected: RolloutBatch) -> Tensor | None:
        """The noise fractions of the terms of this process's samples, [n, T], where the rule needs them; others' are
        NaN."""
        if self.rule.schedule is None:
            return None
        found = {place: self.view.levels(epoch, sample) for place, sample in collected.samples.items()}
        unknown = torch.full_like(next(iter(found.values())), torch.nan)
        return torch.stack([found.get(place, unknown) for place in range(len(collected.groups))])

    def _likelihood(self, collected: RolloutBatch) -> Tensor | None:
        """Minus the distance of each sample's latents from its group's centre, [n], where the rule needs it."""
        if not self.rule.unlikeliness:
            return None
        found = []
        places = sorted(collected.samples)
        for slot in dict.fromkeys(collected.groups[place].item() for place in places):
            members = [place for place in places if collected.groups[place] == slot]
            latents = torch.stack([collected.samples[place].latents for place in members]).flatten(1)
            distance = (latents - latents.mean(0)).square().mean(1)
            found += list(zip(members, (-distance).tolist(), strict=True))
        return self._of_everyone(torch.tensor(found, dtype=torch.float64))[:, 0]

    def _of_everyone(self, mine: Tensor) -> Tensor:
        """Rows of all processes in the order of their first column, the place, which is left out, on the CPU."""
        everyone = self.accelerator.gather(mine.to(self.accelerator.device)).cpu()
        return everyone[everyone[:, 0].argsort(), 1:]
