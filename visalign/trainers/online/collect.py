"""One epoch of rollouts: prompts times group, sampled in batches, scored in the background, gathered."""

import time
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from visalign.config import OnlineConfig
from visalign.data.seed_preferences import SeedPreference
from visalign.errors import UserError
from visalign.generators.base import Conditioning, Generator, Guidance
from visalign.generators.observe.rows import join
from visalign.media.samples import Sample
from visalign.media.source_images import sample_of
from visalign.parallel.sharing import doing
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.seeds import stable_seed
from visalign.trainers.online.rollout import Sampler, Start, Trajectory
from visalign.trainers.online.scoring import AsyncScorer, RewardSet
from visalign.trainers.online.step_selection import StepPlan
from visalign.trainers.order import DataOrder


@dataclass
class RolloutBatch:
    """samples: this process's, by place. rewards: float32 [n, K] of all places in order, NaN where unscored.
    groups: int64 [n]. prompts: [n]. images: this process's first groups, for the grid. seconds: by phase.
    stochastic: the sampling steps that added noise."""

    samples: dict[int, Trajectory]
    rewards: Tensor
    groups: Tensor
    prompts: list[str]
    images: list[tuple[int, Sample]]
    seconds: dict[str, float]
    stochastic: frozenset[int]


@dataclass(frozen=True)
class PromptTask:
    """A prompt to sample, with seeds where it was voted on."""

    prompt: str
    seeds: tuple[int, int] | None = None


class PromptEmbeddings:
    """Embeddings of prompts, read once an epoch, and the guidance that goes with them."""

    def __init__(self, cache: EncodingCache, config: OnlineConfig, device: torch.device):
        self.cache, self.rollout, self.device = cache, config.rollout, device
        self.negative = self.rollout.negative_prompt or None
        self._known: dict[str, Conditioning] = {}

    def key(self, prompt: str) -> str:
        return self.cache.prompt_key(prompt)

    def negative_key(self, prompt: str) -> str:
        return self.cache.negative_key(prompt, self.negative)

    def load(self, prompts: list[str]) -> None:
        """Encode and keep the embeddings of one epoch's prompts.

        Only this epoch's prompts are encoded together, whatever was cached before, so that a run which is killed and
        resumed computes the same numbers.
        """
        wanted = {self.key(text): text for text in prompts}
        negatives = {self.negative_key(text): text for text in prompts}
        self.cache.add_negatives(negatives, self.negative)
        self.cache.add_prompts(wanted)
        self._known = {key: self._known.get(key) or self.cache.conditioning([key]) for key in (*wanted, *negatives)}

    def of(self, starts: list[Start]) -> tuple[Conditioning, Guidance | None]:
        negative = self._joined([self.negative_key(s.prompt) for s in starts])
        guidance = Guidance(self.rollout.guidance_scale, negative, self.rollout.detach_negative,
                            self.rollout.guidance_apart)
        return self._joined([s.prompt_key for s in starts]), guidance

    def _joined(self, keys: list[str]) -> Conditioning:
        return {name: each.to(self.device) for name, each in join([self._known[key] for key in keys]).items()}


class RolloutCollector:
    """Samples and scores epochs. Sample `place` of an epoch belongs to prompt place // group_size of that epoch."""

    def __init__(self, config: OnlineConfig, generator: Generator, tasks: list[PromptTask],
                 reward_set: RewardSet | None,
                 conditions: PromptEmbeddings, accelerator: Accelerator, sampler: Sampler):
        self.config, self.generator, self.sampler = config, generator, sampler
        self.reward_set, self.conditions, self.accelerator = reward_set, conditions, accelerator
        self.order = DataOrder(tasks, config.train.seed)
        self.scorer = AsyncScorer(reward_set) if reward_set else None

    @property
    def size(self) -> int:
        return self.config.rollout.prompts_per_epoch * self.config.rollout.group_size

    def batch_of(self, place: int) -> int:
        """The sampling batch, counted over all processes, that a place belongs to."""
        return place // (self.config.rollout.batch_size * self.accelerator.num_processes)

    def places(self) -> list[int]:
        """The places this process samples, batch by batch."""
        size, world = self.config.rollout.batch_size, self.accelerator.num_processes
        first = self.accelerator.process_index * size
        return [place for start in range(first, self.size, size * world) for place in range(start, start + size)]

    def collect(self, epoch: int, plan: StepPlan, kept: Tensor) -> RolloutBatch:
        """Sample and score an epoch. Raises UserError when too many samples have no score or a reward keeps failing."""
        rollout, places = self.config.rollout, self.places()
        tasks = [self.order[epoch * rollout.prompts_per_epoch + slot] for slot in range(rollout.prompts_per_epoch)]
        self.conditions.load([each.prompt for each in tasks])
        started, decoding, scoring_before = time.perf_counter(), 0.0, self.scorer.seconds if self.scorer else 0.0
        samples: dict[int, Trajectory] = {}
        scoring: list[tuple[list[int], Future]] = []
        images: list[tuple[int, Sample]] = []
        size = rollout.batch_size
        batches = tqdm(range(0, len(places), size), desc=f"epoch {epoch + 1}: sampling", unit="batch", leave=False,
                       disable=not self.accelerator.is_main_process)
        for b in batches:
            doing()
            starts = [self._start(epoch, place, tasks) for place in places[b:b + size]]
            drawn = self.sampler.draw(starts, *self.conditions.of(starts), plan.stochastic, kept[b:b + size])
            samples |= {sample.start.place: sample for sample in drawn}
            if self.scorer:
                before = time.perf_counter()
                decoded = self.generator.decode(torch.stack([s.latents for s in drawn]).to(self.generator.device))
                made = [sample_of(s.start.prompt, self.generator.text_of(s.start.prompt), media, s.start.place)
                        for s, media in zip(drawn, decoded, strict=True)]
                decoding += time.perf_counter() - before
                images += [(s.start.place, sample) for s, sample in zip(drawn, made, strict=True)][:size]
                scoring.append((places[b:b + size], self.scorer.submit(made)))
        sampled = time.perf_counter()
        rewards = self._gathered(scoring) if self.scorer else self._votes(tasks)
        seconds = {"sampling": sampled - started - decoding, "decoding": decoding,
                   "waiting_for_rewards": time.perf_counter() - sampled,
                   "scoring": (self.scorer.seconds if self.scorer else 0.0) - scoring_before}
        slots = torch.arange(self.size) // rollout.group_size
        return RolloutBatch(samples, rewards, slots, [tasks[slot].prompt for slot in slots.tolist()], images, seconds,
                            plan.stochastic)

    def _start(self, epoch: int, place: int, tasks: list[PromptTask]) -> Start:
        rollout, seed = self.config.rollout, self.config.train.seed
        slot, copy = divmod(place, rollout.group_size)
        prompt = tasks[slot].prompt
        if tasks[slot].seeds is not None:
            own = tasks[slot].seeds[copy]
            return Start(place, prompt, self.conditions.key(prompt), *voted_seeds(own))
        noise = (seed, epoch, slot, "shared noise") if rollout.same_noise else (seed, epoch, place, "noise")
        return Start(place, prompt, self.conditions.key(prompt), stable_seed(*noise),
                     stable_seed(seed, epoch, place, "steps of sampling"))

    def _gathered(self, scoring: list[tuple[list[int], Future]]) -> Tensor:
        """Rewards of all places, gathered. Raises UserError when too few samples could be scored."""
        rows, batches = [], []
        for places, future in scoring:
            batches.append(self.scorer.result(future))
            rows += places
        values = torch.cat([torch.cat([batch.values, batch.failed[:, None].float()], 1) for batch in batches])
        reason = next((text for batch in batches for text in batch.reasons.values()), "")
        mine = torch.cat([torch.tensor(rows, dtype=torch.float64)[:, None], values.double()], 1)
        gathered = self.accelerator.gather(mine.to(self.accelerator.device, torch.float64)).cpu()
        *columns, failed = gathered[gathered[:, 0].argsort(), 1:].float().unbind(1)
        rewards = torch.stack(columns, 1)
        missing = ((failed > 0) | rewards.isnan().all(1)).double().mean().item()
        if missing > self.config.reward.max_failures:
            raise UserError(f"reward {', '.join(self.reward_set.names)}: {missing:.0%} of the epoch's samples have no "
                            f"score or lack one, more than reward.max_failures {self.config.reward.max_failures:g}"
                            f"{f' ({reason})' if reason else ''}; the run stops here, continue it with --resume")
        return rewards

    def _votes(self, tasks: list[PromptTask]) -> Tensor:
        """1 for the preferred image of each vote, which comes first, and 0 for the other."""
        return torch.tensor([[1.0], [0.0]]).repeat(len(tasks), 1)


def voted_seeds(seed: int) -> tuple[int, int]:
    """First noise and step noise of an image that was shown to voters under `seed`."""
    return stable_seed(seed, "noise"), stable_seed(seed, "steps of sampling")


def prompt_tasks_of(votes: list[SeedPreference]) -> list[PromptTask]:
    return [PromptTask(vote.prompt, (vote.chosen_seed, vote.rejected_seed)) for vote in votes]
