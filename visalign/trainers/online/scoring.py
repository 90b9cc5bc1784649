"""The rewards of an online run, which score in the background while the next batch is sampled."""

import copy
import queue
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visalign.config import RewardSettings
from visalign.errors import UserError, nearest
from visalign.evaluation.held_out import load_features
from visalign.media.samples import Sample
from visalign.parallel.sharing import doing
from visalign.rewards import FeatureExtractor, Reward, for_modality, load_reward
from visalign.rewards.relative import Branches
from visalign.storage.out_of_memory import OutOfMemory, memory_told
from visalign.trainers.online.sample_watch import SampleWatch


@dataclass(frozen=True)
class RewardBatch:
    """values: float32 [n, K], larger is better, NaN where there is no score; reasons by sample.

    failed: bool [n], samples that a reward should have scored but did not; samples that it refuses do not count.
    features: float32 [n, D] where something embeds samples, NaN of those that it was not asked to. watched: float32
    [n, S], what the guard's watch measures, NaN of those that it does not.
    """

    values: Tensor
    reasons: dict[int, str]
    failed: Tensor
    features: Tensor | None = None
    watched: Tensor | None = None


@dataclass(frozen=True)
class _Term:
    reward: Reward
    column: int
    name: str


class RewardSet:
    """All rewards of a recipe, for samples of one modality. names and weights belong to the K columns. features: what
    embeds the samples as well. watch: what else is measured of some of them, and embedded where nothing but the watch
    wants it."""

    def __init__(self, settings: RewardSettings, device: str, modality: str, features: str | None = None,
                 watch: SampleWatch | None = None):
        self.settings, self.device, self.modality = settings, device, modality
        self._loaded: dict[str, Reward] = {}
        self.terms = [self._term(term.reward, term.dimension) for term in settings.models]
        self.names = tuple(term.name for term in self.terms)
        if len(set(self.names)) < len(self.names):
            raise UserError(f"reward.models: names {', '.join(self.names)} are not distinct; give a `name` in a "
                            "mapping")
        self.weights = torch.tensor([term.weight for term in settings.models], dtype=torch.float64)
        self.embedder = load_features(features, device, "reward.features") if features else None
        self.watch = watch

    def _term(self, spec, dimension: str | None) -> _Term:
        key = repr(spec)  # dimensions of one reward are terms that share it
        if key not in self._loaded:
            self._loaded[key] = for_modality(load_reward(spec, self.device), self.modality)
        reward = self._loaded[key]
        if dimension is not None and dimension not in reward.dimensions:
            raise UserError(f"reward.models: {reward.name} has no dimension {dimension}"
                            f"{nearest(dimension, reward.dimensions)}")
        column = 0 if dimension is None else reward.dimensions.index(dimension)
        return _Term(reward, column, reward.name if dimension is None else f"{reward.name}.{dimension}")

    def only(self, name: str) -> "RewardSet":
        """One of the rewards alone, of weight 1; it is not loaded again."""
        term, found = self.terms[self.names.index(name)], copy.copy(self)
        found.terms, found.names, found.weights = [term], (name,), torch.ones(1, dtype=torch.float64)
        found._loaded = {key: reward for key, reward in self._loaded.items() if reward is term.reward}
        return found

    def score(self, samples: list[Sample]) -> RewardBatch:
        """All rewards on one batch, each called once. A reward that raises, or scores nothing, is called again.

        Raises UserError naming the reward that keeps raising or returns the wrong shape.
        """
        columns, reasons, failed = [], {}, torch.zeros(len(samples), dtype=torch.bool)
        answers = {id(reward): self._patiently(reward, samples) for reward in self._loaded.values()}
        for term in self.terms:
            answer = answers[id(term.reward)]
            values = answer.values[:, term.column].float()
            columns.append(values if term.reward.higher_is_better else -values)
            for i in (~values.isfinite()).nonzero().flatten().tolist():
                failed[i] |= applies(term.reward, samples[i])
                reasons.setdefault(i, f"{term.name}: {answer.remarks.get(i, 'not a finite number')}")
        values = torch.stack(columns, 1)
        features = None if self.embedder is None else self._embedded(self.embedder, samples)
        watched = None if self.watch is None else self.watch.measure(samples, self._patiently)
        return RewardBatch(torch.where(values.isfinite(), values, torch.nan), reasons, failed, features, watched)

    def _embedded(self, embedder: FeatureExtractor, samples: list[Sample]) -> Tensor:
        if self.watch is None or self.watch.embeds_all:
            return embedder.sample_features(samples).float().cpu()
        chosen = self.watch.chosen(samples)
        found = embedder.sample_features([samples[i] for i in chosen or [0]]).float().cpu()
        features = torch.full((len(samples), found.shape[1]), torch.nan)
        features[chosen] = found[:len(chosen)]
        return features

    def _patiently(self, reward: Reward, samples: list[Sample]):
        for attempt in range(self.settings.retries + 1):
            last = attempt == self.settings.retries
            try:
                with memory_told(f"scoring with {reward.name}"):
                    answer = reward.score(samples)
            except OutOfMemory:  # the next attempt would have no more
                raise
            except Exception as error:  # a reward may be anyone's code; all failures are reported alike
                if last:
                    said = " ".join(str(error).split())[:200]
                    raise UserError(f"reward {reward.name}: failed {attempt + 1} times, last with "
                                    f"{type(error).__name__}: {said}; fix it and continue with --resume") from error
            else:
                expected = (len(samples), len(reward.dimensions))
                if tuple(answer.values.shape) != expected:
                    raise UserError(f"reward {reward.name}: answered with shape {tuple(answer.values.shape)} where "
                                    f"{expected} (samples, dimensions) is expected")
                asked = any(applies(reward, sample) for sample in samples)
                if last or not asked or answer.values.isfinite().any():
                    return answer
            time.sleep(self.settings.retry_wait)
        raise AssertionError("the last attempt returns or raises")

    def to(self, device: str) -> None:
        watched = self.watch.rewards if self.watch else ()
        for reward in (*self._loaded.values(), *([self.embedder] if self.embedder else []), *watched):
            reward.to(device)

    def differentiable(self, pixels: Tensor, prompts: list[str], branches: Branches | None = None) -> Tensor:
        """Weighted sum of the rewards of pixels [B, 3, H, W] in [0, 1], with gradients, [B].

        branches: where pixels come from steps of `direct_align`. A reward without words to swap counts with its sign
        turned where they are swapped.
        """
        total = torch.zeros(len(pixels), device=pixels.device)
        for term, weight in zip(self.terms, self.weights.tolist(), strict=True):
            values = _in_branches(term.reward, pixels, prompts, branches)[:, term.column].float()
            total = total + weight * (values if term.reward.higher_is_better else -values)
        return total

    def check_differentiable(self) -> None:
        """Raise UserError for a reward without a gradient."""
        for term in self.terms:
            if not hasattr(term.reward, "score_pixels"):
                raise UserError(f"reward {term.name}: has no gradient with respect to the image, which this "
                                "objective needs; clip, hpsv2, relative, directional, joint (open_clip), "
                                "colourfulness, saturation and contrast do")


def _in_branches(reward: Any, pixels: Tensor, prompts: list[str], branches: Branches | None) -> Tensor:
    if branches is None:
        return reward.score_pixels(pixels, prompts)
    if hasattr(reward, "score_branches"):
        return reward.score_branches(pixels, prompts, branches)
    values = reward.score_pixels(pixels, prompts)
    return torch.where(branches.swapped[:, None], -values, values)


def applies(reward: Reward, sample: Sample) -> bool:
    """Whether a reward applies to this sample; one that is not a `RewardModel` applies to all."""
    refusal = getattr(reward, "refusal", None)
    return refusal is None or refusal(sample) is None


def first_reason(batches: list[RewardBatch]) -> str:
    """Why the first sample without a score has none, '' when all have one."""
    return next((text for batch in batches for text in batch.reasons.values()), "")


def check_scored(rewards: Tensor, failed: Tensor, reward_set: RewardSet, reason: str, of: str = "epoch") -> None:
    """Raise UserError when too many samples of an epoch, or of what `of` names, have no score, or lack one that they
    should have."""
    missing = (failed | rewards.isnan().all(1)).double().mean().item()
    limit = reward_set.settings.max_failures
    if missing > limit:
        raise UserError(f"reward {', '.join(reward_set.names)}: {missing:.0%} of the {of}'s samples have no score or "
                        f"lack one, more than reward.max_failures {limit:g}{f' ({reason})' if reason else ''}; the "
                        "run stops here, continue it with --resume")


class AsyncScorer:
    """One thread that scores batches in order. It is a daemon: a reward that hangs cannot keep the program alive."""

    def __init__(self, reward_set: RewardSet):
        self.reward_set = reward_set
        self.seconds = 0.0  # spent scoring so far
        self._waiting: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, samples: list[Sample]) -> Future:
        future: Future = Future()
        self._waiting.put((samples, future))
        return future

    def result(self, future: Future) -> RewardBatch:
        """Raises UserError when no scores arrive within the time limit of a batch."""
        try:
            return future.result(self.reward_set.settings.timeout)
        except Late:
            names = ", ".join(self.reward_set.names)
            limit = f"reward.timeout {self.reward_set.settings.timeout:g} s"
            raise UserError(f"reward {names}: no scores for a batch within {limit}; the run stops here, continue it "
                            "with --resume") from None

    def _work(self) -> None:
        while True:
            samples, future = self._waiting.get()
            started = time.perf_counter()
            try:
                verdict = self.reward_set.score(samples)
            except BaseException as error:
                future.set_exception(error)
                continue
            self.seconds += time.perf_counter() - started
            doing()
            future.set_result(verdict)
