"""Epochs of rollouts in the learner's own process: sampled in batches, scored in the background, gathered."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from visalign.config import OnlineConfig
from visalign.generators.base import Conditioning, Generator, Guidance
from visalign.generators.observe.rows import join
from visalign.media.samples import Sample
from visalign.media.source_images import sample_of
from visalign.parallel.engine import Engine
from visalign.parallel.sharing import doing
from visalign.sampling.encoding_cache import EncodingCache
from visalign.storage.out_of_memory import give_back
from visalign.trainers.online.epochs import Epochs
from visalign.trainers.online.rollout import Sampler, Start, Trajectory
from visalign.trainers.online.scoring import AsyncScorer, RewardBatch, RewardSet, check_scored, first_reason


@dataclass
class RolloutBatch:
    """samples: this process's, by place. rewards: float32 [n, K] of all places in order, NaN where unscored.
    groups: int64 [n]. prompts: [n]. images: this process's first groups, for the grid. seconds: by phase.
    stochastic: the sampling steps that added noise. version: how many epochs the policy that sampled had learnt from.
    features: float32 [n, D] of all places in order, where something embeds them. watched: the same of what the guard's
    watch measures. Both are NaN of samples that are not measured.
    """

    samples: dict[int, Trajectory]
    rewards: Tensor
    groups: Tensor
    prompts: list[str]
    images: list[tuple[int, Sample]]
    seconds: dict[str, float]
    stochastic: frozenset[int]
    version: int
    features: Tensor | None = None
    watched: Tensor | None = None

    @property
    def stored(self) -> int:
        """Steps that are stored of each sample."""
        return len(next(iter(self.samples.values())).steps)


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


def decoded_samples(generator: Generator, drawn: list[Trajectory]) -> list[Sample]:
    """The images or videos of sampled latents, as rewards see them."""
    media = generator.decode(torch.stack([sample.latents for sample in drawn]).to(generator.device))
    return [sample_of(each.start.prompt, generator.text_of(each.start.prompt), one, each.start.place)
            for each, one in zip(drawn, media, strict=True)]


@dataclass
class RolloutParts:
    """What epochs are collected with. policy: a context in which the generator is the policy that samples. parameters:
    what is trained, by name."""

    config: OnlineConfig
    generator: Generator
    epochs: Epochs
    reward_set: RewardSet | None
    conditions: PromptEmbeddings
    engine: Engine
    sampler: Sampler
    policy: Callable[[], AbstractContextManager] = contextlib.nullcontext
    parameters: list[tuple[str, nn.Parameter]] = field(default_factory=list)


class RolloutSource(Protocol):
    """Where an online loop's samples come from. kept: what of it is kept in a checkpoint, by name."""

    kept: dict[str, Any]

    def running(self) -> AbstractContextManager:
        """A context in which epochs may be collected."""
        ...

    def collect(self, epoch: int) -> RolloutBatch:
        """An epoch, sampled and scored; called for each one as its updates are about to begin.

        Raises UserError when too many samples have no score or a reward keeps failing.
        """
        ...


class RolloutCollector:
    """Samples and scores epochs in this process, with the network that learns."""

    def __init__(self, parts: RolloutParts):
        self.parts, self.config, self.generator, self.epochs = parts, parts.config, parts.generator, parts.epochs
        self.reward_set, self.conditions = parts.reward_set, parts.conditions
        self.accelerator = parts.engine.accelerator
        self.scorer = AsyncScorer(parts.reward_set) if parts.reward_set else None
        self.kept: dict[str, Any] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        yield

    def collect(self, epoch: int) -> RolloutBatch:
        place_rewards(self.reward_set, self.config, str(self.generator.device))
        with self.parts.policy(), self.parts.engine.gathered():
            collected = self._collect(epoch)
        place_rewards(self.reward_set, self.config, "cpu")
        give_back()
        return collected

    def _collect(self, epoch: int) -> RolloutBatch:
        requests, prompts = self.epochs.requests(epoch), self.epochs.prompts(epoch)
        self.conditions.load(list(dict.fromkeys(prompts)))
        started, decoding, scoring_before = time.perf_counter(), 0.0, self.scorer.seconds if self.scorer else 0.0
        samples: dict[int, Trajectory] = {}
        scoring: list[tuple[list[int], Future]] = []
        images: list[tuple[int, Sample]] = []
        for request in tqdm(requests, desc=f"epoch {epoch + 1}: sampling", unit="batch", leave=False,
                            disable=not self.accelerator.is_main_process):
            doing()
            starts = list(request.starts)
            drawn = self.parts.sampler.draw(starts, *self.conditions.of(starts), request.stochastic, request.kept)
            samples |= {sample.start.place: sample for sample in drawn}
            if self.scorer:
                before = time.perf_counter()
                made = decoded_samples(self.generator, drawn)
                decoding += time.perf_counter() - before
                places = [start.place for start in starts]
                images += zip(places, made, strict=True) if request.shown else ()
                scoring.append((places, self.scorer.submit(made)))
        sampled = time.perf_counter()
        rewards, features, watched = self._gathered(scoring) if self.scorer else (
            votes_as_rewards(self.epochs), None, None)
        seconds = {"sampling": sampled - started - decoding, "decoding": decoding,
                   "waiting_for_rewards": time.perf_counter() - sampled,
                   "scoring": (self.scorer.seconds if self.scorer else 0.0) - scoring_before}
        return RolloutBatch(samples, rewards, self.epochs.groups, prompts, images, seconds, requests[0].stochastic,
                            version=epoch, features=features, watched=watched)

    def _gathered(self, scoring: list[tuple[list[int], Future]]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Rewards of all places, gathered, their features, and what is watched. Raises UserError when too few could be
        scored."""
        rows, batches = [], []
        for places, future in scoring:
            batches.append(self.scorer.result(future))
            rows += places
        more = [gathered_features(batches), gathered_watched(batches)]
        values = torch.cat([torch.cat([batch.values, batch.failed[:, None].float()], 1) for batch in batches])
        widths = [batches[0].values.shape[1], 1, *(0 if each is None else each.shape[1] for each in more)]
        values = torch.cat([values, *(each for each in more if each is not None)], 1)
        mine = torch.cat([torch.tensor(rows, dtype=torch.float64)[:, None], values.double()], 1)
        gathered = self.accelerator.gather(mine.to(self.accelerator.device, torch.float64)).cpu()
        found = gathered[gathered[:, 0].argsort(), 1:].float()
        rewards, failed, features, watched = found.split(widths, 1)
        check_scored(rewards, failed[:, 0] > 0, self.reward_set, first_reason(batches))
        return rewards, features if widths[2] else None, watched if widths[3] else None


def gathered_features(batches: list[RewardBatch]) -> Tensor | None:
    """The features of batches one after the other, None where nothing embeds them."""
    found = [batch.features for batch in batches if batch.features is not None]
    return torch.cat(found) if found else None


def gathered_watched(batches: list[RewardBatch]) -> Tensor | None:
    """What is watched of batches one after the other, None where nothing is."""
    found = [batch.watched for batch in batches if batch.watched is not None]
    return torch.cat(found) if found else None


def votes_as_rewards(epochs: Epochs) -> Tensor:
    """1 for the preferred image of each vote, which comes first, and 0 for the other, [n, 1]."""
    return torch.tensor([[1.0], [0.0]]).repeat(epochs.size // 2, 1)


def place_rewards(reward_set: RewardSet | None, config: OnlineConfig, device: str) -> None:
    """Move the rewards' networks where `reward.offload` wants them."""
    if reward_set and config.reward.offload:
        reward_set.to(device)
