"""What scores a sample: the protocol, what a reward returns, and the base class of the rewards here."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.media.answers import Answer, without_control_tokens
from visalign.media.image_files import to_rgb
from visalign.media.samples import Sample
from visalign.media.source_images import split_prompt
from visalign.validation.ranges import BatchSize, Ranged


@dataclass(frozen=True)
class Scores:
    """A reward's scores of n samples in D dimensions.

    values: float32 [n, D], NaN where it has no score. remarks: by sample, why its values are NaN, or a note such
    as a truncated prompt. spread: the reward's own standard deviation, float32 [n, D], where it gives one.
    """

    values: Tensor
    remarks: dict[int, str] = field(default_factory=dict)
    spread: Tensor | None = None


class Reward(Protocol):
    """A reward model. A sample that could not be scored is NaN with a remark, never a silent 0.

    modalities: subset of {"image", "video", "text"}. needs_prompt: whether a sample without one is NaN. needs_group:
    whether all samples of a prompt must come in one call. score_range: (lowest, highest), infinite where unbounded.
    """

    name: str
    modalities: frozenset[str]
    dimensions: tuple[str, ...]
    higher_is_better: bool
    needs_prompt: bool
    needs_group: bool
    score_range: tuple[float, float]

    def score(self, samples: list[Sample]) -> Scores: ...

    def check(self) -> None: ...

    def to(self, device: str) -> None: ...


class FeatureExtractor(Protocol):
    """What embeds samples, so that diversity can be measured.

    weights_folder: where its weights lie, None where that is not a folder here. sample_features: unit features,
    float32 [n, D]; raises UserError for samples it cannot embed, or not together.
    """

    source: str
    modalities: frozenset[str]

    def weights_folder(self) -> Path | None: ...

    def sample_features(self, samples: list[Sample]) -> Tensor: ...

    def to(self, device: str) -> None: ...


@dataclass
class RewardModel(Ranged, ABC):
    """Base of the rewards here: loads on first use, scores in batches that fit memory, turns refusals into NaN.

    A subclass is a dataclass whose fields are its settings; it writes `score_batch` and, when it has networks,
    `load` (returns them as one module). `check` finds what is missing before anything is loaded. named_by: the setting
    that KIND:VALUE sets. needs_sources: whether a sample without source images is NaN. share_of: what a mean is the
    share of, for rewards that say of each sample whether it is so.
    """

    name: str = field(default="", kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    batch_size: BatchSize = field(default=64, kw_only=True)

    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    named_by: ClassVar[str] = "source"
    dimensions: ClassVar[tuple[str, ...]] = ("score",)
    higher_is_better: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = False
    needs_sources: ClassVar[bool] = False
    needs_group: ClassVar[bool] = False
    share_of: ClassVar[str] = ""
    score_range: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))

    def __post_init__(self):
        super().__post_init__()
        self.name = self.name or type(self).__name__.lower()
        self._network: Any = None
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not self.name.isprintable():
            raise ValueError(f"name is {self.name!r}; it is used in columns and messages, so only letters, digits "
                             "and printable signs are allowed")
        try:
            torch.device(self.device)
        except RuntimeError:
            raise ValueError(f"device is {self.device!r}; expected cpu, cuda or cuda:NUMBER") from None

    def check(self) -> None:  # noqa: B027  a reward that needs nothing has nothing to check
        """Raise UserError when something this reward needs is missing; loads nothing."""

    def load(self) -> Any:
        """The networks, in evaluation mode; a reward without networks does not define it."""
        return None

    def held_bytes(self) -> int | None:
        """Bytes of the networks as they are held, without reading them; None where that is not known."""
        return 0 if type(self).load is RewardModel.load else None

    @abstractmethod
    def score_batch(self, samples: list[Sample]) -> Tensor | Scores:
        """Values of one batch whose samples have passed `refusal`."""

    @property
    def network(self) -> Any:
        if self._network is None:
            self.check()
            self._network = self.load()
            self.to(self.device)
        return self._network

    def to(self, device: str) -> None:
        """Move the networks; `to("cpu")` frees an accelerator until the next `to`."""
        self.device = str(device)
        if isinstance(self._network, torch.nn.Module):
            self._network.to(self.device)

    def refusal(self, sample: Sample) -> str | None:
        """Why this sample cannot be scored, or None."""
        if sample.modality not in self.modalities:
            article = "an" if sample.modality == "image" else "a"
            return f"scores {in_plural(self.modalities)} only, this is {article} {sample.modality}"
        sizes = {frame.size for frame in sample.video.frames} if sample.video else {None}
        if len(sizes) != 1:
            return "the video has no frames" if not sizes else "the video's frames differ in size"
        if self.needs_prompt and not sample.prompt.strip():
            return "no prompt"
        if self.needs_sources and not sample.sources:
            return "no source image, which this reward compares the result with"
        return None

    @torch.no_grad()
    def score(self, samples: list[Sample]) -> Scores:
        """Values float32 [n, D] on the CPU, NaN with a remark for what was refused."""
        samples, refused = list(samples), {}
        for i, sample in enumerate(samples):
            try:
                samples[i] = as_read(sample)
                reason = self.refusal(samples[i])
            except ValueError as error:
                reason = str(error)
            if reason:
                refused[i] = reason
        rows = [i for i in range(len(samples)) if i not in refused]
        step = len(rows) if self.needs_group else self.batch_size
        return gather(len(samples), len(self.dimensions), refused,
                      ((part, answer) for start in range(0, len(rows), max(1, step))
                       for part, answer in fitting(rows[start:start + step],
                                                   lambda part: self.score_batch([samples[i] for i in part]))))


def in_plural(modalities: frozenset[str]) -> str:
    """`images and videos`."""
    return " and ".join(f"{each}s" for each in sorted(modalities))


def check_sources_given(rewards: Iterable[Reward], prompts: Iterable[str], where: str) -> None:
    """Raise UserError for a reward that compares with source images where a prompt names none."""
    prompts = list(prompts)
    for reward in rewards:
        bare = next((prompt for prompt in prompts if not split_prompt(prompt)[1]), None)
        if bare is not None and getattr(reward, "needs_sources", False):
            raise UserError(f"reward {reward.name}: compares results with their source images, and {where} '{bare}' "
                            "has none; give edits a column `source`, or leave the reward out")


def as_read(sample: Sample) -> Sample:
    """The sample with RGB images, as read from a file, and with an answer that holds no control tokens.

    Raises ValueError where no conversion to RGB exists.
    """
    if any(source.mode != "RGB" for source in sample.sources):
        sample = replace(sample, sources=tuple(to_rgb(source, []) for source in sample.sources))
    if sample.answer is not None:
        return sample.with_media(Answer(without_control_tokens(sample.answer)))
    frames = sample.video.frames if sample.video else [sample.media]
    if all(frame is None or frame.mode == "RGB" for frame in frames):
        return sample
    turned = [to_rgb(frame, []) for frame in frames]
    return sample.with_media(replace(sample.video, frames=turned) if sample.video else turned[0])


def fitting(rows: list[int], run: Callable[[list[int]], Any]):
    """(rows, run(rows)), halving the batch whenever the accelerator is out of memory."""
    try:
        yield rows, run(rows)
    except torch.OutOfMemoryError:
        if len(rows) < 2:
            raise
        torch.cuda.empty_cache()
        half = len(rows) // 2
        yield from fitting(rows[:half], run)
        yield from fitting(rows[half:], run)


def gather(count: int, dimensions: int, refused: dict[int, str], answers) -> Scores:
    """One Scores from those of batches, given as (rows, Tensor or Scores) pairs."""
    values = torch.full((count, dimensions), float("nan"))
    spread, remarks = None, dict(refused)
    for rows, answer in answers:
        answer = answer if isinstance(answer, Scores) else Scores(answer)
        values[rows] = answer.values.detach().float().cpu().view(len(rows), dimensions)
        remarks |= {rows[i]: text for i, text in answer.remarks.items()}
        if answer.spread is not None:
            spread = torch.full_like(values, float("nan")) if spread is None else spread
            spread[rows] = answer.spread.detach().float().cpu()
    for i in (~values.isfinite()).any(1).nonzero().flatten().tolist():
        values[i] = torch.where(values[i].isfinite(), values[i], float("nan"))
        remarks.setdefault(i, "the reward is not a finite number")
    return Scores(values, remarks, spread)


def scores_of(reward: Reward, samples: list[Sample]) -> tuple[Tensor, dict[int, str]]:
    """First dimension of the scores, larger is better, float32 [n]: NaN, and why by sample, where there is none."""
    answer = reward.score(samples)
    scores = answer.values[:, 0] if reward.higher_is_better else -answer.values[:, 0]
    known = scores.isfinite()
    return torch.where(known, scores, float("nan")), {
        i: answer.remarks.get(i, "not a finite number") for i in (~known).nonzero().flatten().tolist()}


def finite_scores(reward: Reward, samples: list[Sample]) -> Tensor:
    """First dimension of the scores, larger is better, float32 [n].

    Raises UserError naming a prompt when a sample has no score.
    """
    scores, reasons = scores_of(reward, samples)
    if reasons:
        first, reason = next(iter(reasons.items()))
        raise UserError(f"reward {reward.name}: {len(reasons)} of {len(samples)} scores are not finite, the first for "
                        f"prompt '{samples[first].prompt}' ({reason}); training on them would fit noise")
    return scores
