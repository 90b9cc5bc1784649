"""What an epoch consists of: its prompts, the seeds and steps of each sample, and the batches they are drawn in.

All of it follows from the recipe and the epoch's number, so it is the same wherever and whenever a batch is drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.config import OnlineConfig
from visalign.data.seed_preferences import SeedPreference
from visalign.parallel.sharing import Processes
from visalign.sampling.seeds import stable_seed
from visalign.trainers.online.rollout import Start
from visalign.trainers.online.step_selection import StepPlan, plan_steps
from visalign.trainers.order import DataOrder

SHOWN_GROUPS = 6
"""Groups in the grid of an epoch's samples."""


@dataclass(frozen=True)
class PromptTask:
    """A prompt to sample, with seeds where it was voted on."""

    prompt: str
    seeds: tuple[int, int] | None = None


@dataclass(frozen=True)
class BatchRequest:
    """The samples of one batch. stochastic: the steps that add noise. kept: int64 [B, K], the steps to store of each.
    shown: whether their images are wanted for the grid."""

    epoch: int
    starts: tuple[Start, ...]
    stochastic: frozenset[int]
    kept: Tensor
    shown: bool

    @property
    def prompts(self) -> list[str]:
        return list(dict.fromkeys(start.prompt for start in self.starts))


class Epochs:
    """The epochs of a run. Sample `place` of an epoch belongs to prompt place // group_size of that epoch.

    key: of a prompt's embedding. noisy: the steps at which the sampler adds noise. kept: which steps of a plan are
    stored.
    """

    def __init__(self, config: OnlineConfig, tasks: list[PromptTask], key: Callable[[str], str], processes: Processes,
                 noisy: list[int], kept: Callable[[StepPlan], Tensor]):
        self.config, self.key, self.processes, self.noisy, self.kept = config, key, processes, noisy, kept
        self.order = DataOrder(tasks, config.train.seed)

    @property
    def size(self) -> int:
        return self.config.rollout.prompts_per_epoch * self.config.rollout.group_size

    @property
    def groups(self) -> Tensor:
        """The group of each place, int64 [n]."""
        return torch.arange(self.size) // self.config.rollout.group_size

    def batch_of(self, place: int) -> int:
        """The sampling batch, counted over all processes, that a place belongs to."""
        return place // (self.config.rollout.batch_size * self.processes.world)

    def places(self) -> list[int]:
        """The places this process samples, batch by batch."""
        size, world = self.config.rollout.batch_size, self.processes.world
        first = self.processes.rank * size
        return [place for start in range(first, self.size, size * world) for place in range(start, start + size)]

    def tasks(self, epoch: int) -> list[PromptTask]:
        """Of each group."""
        count = self.config.rollout.prompts_per_epoch
        return [self.order[epoch * count + slot] for slot in range(count)]

    def prompts(self, epoch: int) -> list[str]:
        """Of each place."""
        tasks = self.tasks(epoch)
        return [tasks[group].prompt for group in self.groups.tolist()]

    def requests(self, epoch: int) -> list[BatchRequest]:
        """This process's batches."""
        tasks, places, size = self.tasks(epoch), self.places(), self.config.rollout.batch_size
        plan = plan_steps(self.config.rollout, self.noisy, epoch, self.config.train.seed, places)
        kept, shown = self.kept(plan), self.is_shown(epoch)
        return [BatchRequest(epoch, tuple(self._start(epoch, place, tasks) for place in places[b:b + size]),
                             plan.stochastic, kept[b:b + size],
                             shown and b < SHOWN_GROUPS * self.config.rollout.group_size)
                for b in range(0, len(places), size)]

    def is_shown(self, epoch: int) -> bool:
        """Whether a grid of samples is saved: of the first epoch, of those that are evaluated, and of the last."""
        every, last = self.config.eval.every, self.config.train.epochs - 1
        return bool(self.config.reward.models) and (epoch in (0, last) or bool(every and (epoch + 1) % every == 0))

    def _start(self, epoch: int, place: int, tasks: list[PromptTask]) -> Start:
        rollout, seed = self.config.rollout, self.config.train.seed
        slot, copy = divmod(place, rollout.group_size)
        prompt = tasks[slot].prompt
        if tasks[slot].seeds is not None:
            own = tasks[slot].seeds[copy]
            return Start(place, prompt, self.key(prompt), *voted_seeds(own))
        root = place - place % rollout.leaves
        noise = (seed, epoch, slot, "shared noise") if rollout.same_noise else (seed, epoch, root, "noise")
        return Start(place, prompt, self.key(prompt), stable_seed(*noise),
                     stable_seed(seed, epoch, place, "steps of sampling"))


def voted_seeds(seed: int) -> tuple[int, int]:
    """First noise and step noise of an image that was shown to voters under `seed`."""
    return stable_seed(seed, "noise"), stable_seed(seed, "steps of sampling")


def prompt_tasks_of(votes: list[SeedPreference]) -> list[PromptTask]:
    return [PromptTask(vote.prompt, (vote.chosen_seed, vote.rejected_seed)) for vote in votes]
