"""Every number of one model's generations: of samples in memory, or of files in memory that does not grow with them.

Files are decoded in threads, a few prompts at a time. What depends on an image alone (features, style, boxes) and on a
prompt's images together (pixel distances) is cached by the content of the files, so that it is computed
once for all commands.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from visalign.data.generations import Entry
from visalign.errors import UserError
from visalign.evaluation.medium import TEXT, Medium, medium_of, medium_of_entries
from visalign.evaluators.perceptual import Lpips
from visalign.evaluators.prompt_metrics import PromptMetrics, reduce
from visalign.media.kinds import may_be_video
from visalign.media.samples import Sample
from visalign.parallel.sharing import ALONE, Processes
from visalign.rewards import FeatureExtractor, Reward, scores_of
from visalign.storage.sqlite_cache import SqliteCache

FILES_AT_ONCE, VIDEOS_AT_ONCE = 64, 8
VERSION = "2"
"""Part of every key; incremented when the measurements change."""


@dataclass(frozen=True)
class MetricSuite:
    """What measures generations. features: None only for samples in memory. lpips: None without its weights."""

    rewards: list[Reward]
    features: FeatureExtractor | None
    lpips: Lpips | None = None
    store: SqliteCache | None = None
    workers: int = max(1, (os.cpu_count() or 2) // 2)


@dataclass(frozen=True)
class GenerationMetrics:
    """All that was measured. rewards {name: [P, K]}, features [P, K, D], style {name: [P, K]}, boxes [P][K]; alike:
    generations that are the same file as another of their prompt; digests: hashes of their content, [P][K]."""

    measured: PromptMetrics
    rewards: dict[str, Tensor]
    features: Tensor
    style: dict[str, np.ndarray]
    boxes: list[list[np.ndarray]]
    alike: int
    digests: list[list[str]]


@dataclass
class _Record:
    """The measurements of a single generation, as stored: style, boxes, features."""

    style: np.ndarray
    boxes: np.ndarray
    features: np.ndarray

    def pack(self) -> bytes:
        return np.concatenate([[len(self.boxes)], self.style, self.boxes.flatten(), self.features]).astype(
            "<f4").tobytes()

    @classmethod
    def unpack(cls, data: bytes, medium: Medium) -> "_Record":
        numbers = np.frombuffer(data, "<f4")
        first = 1 + len(medium.style)
        last = first + 4 * int(numbers[0])
        return cls(numbers[1:first].astype(np.float64), numbers[first:last].reshape(-1, 4).astype(np.float64),
                   numbers[last:])


def metrics_of(prompts: list[str], samples: list[Sample], tools: MetricSuite,
               processes: Processes = ALONE) -> PromptMetrics:
    """Measure samples in memory, as many of each prompt, one prompt after the other; processes share the work.

    Raises ValueError when their features are not finite.
    """
    shape = (len(prompts), len(samples) // len(prompts))
    rows = [samples[i:i + shape[1]] for i in range(0, len(samples), shape[1])]
    medium = medium_of(samples)
    style, together = zip(*processes.share(rows, lambda row: (list(map(medium.style_of, row)),
                                                              medium.at_once_of_prompt(row))), strict=True)
    features = None
    if tools.features and shape[1] > 1:
        features = processes.share([samples], tools.features.sample_features)[0].view(*shape, -1)
    scored = shared_scores(tools.rewards, samples, processes)
    return reduce(prompts, {name: scores.view(shape) for name, (scores, _) in scored.items()}, features,
                  by_name(medium.style, np.array(style).reshape(*shape, -1)),
                  {metric: np.array([each[metric] for each in together]) for metric in together[0]},
                  {name: next(iter(reasons.values())) for name, (_, reasons) in scored.items() if reasons})


def by_name(names: tuple[str, ...], columns: np.ndarray) -> dict[str, np.ndarray]:
    """{name: [...]} of columns [..., S]."""
    return {name: columns[..., j] for j, name in enumerate(names)}


def shared_scores(rewards: list[Reward], samples: list[Sample],
                  processes: Processes) -> dict[str, tuple[Tensor, dict[int, str]]]:
    """`scores_of` by reward; processes share whole batches, and a reward that must see all samples is one's."""
    def parts(reward: Reward) -> list[tuple[Reward, int, int]]:
        size = len(samples) if reward.needs_group else getattr(reward, "batch_size", len(samples))
        return [(reward, start, start + size) for start in range(0, len(samples), size)]

    asked = [part for reward in rewards for part in parts(reward)]
    if processes.world == 1:
        asked = [(reward, 0, len(samples)) for reward in rewards]
    answers = processes.share(asked, lambda part: scores_of(part[0], samples[part[1]:part[2]]))
    found: dict[str, tuple[Tensor, dict[int, str]]] = {}
    for (reward, start, _), (scores, reasons) in zip(asked, answers, strict=True):
        before, why = found.get(reward.name, (scores[:0], {}))
        found[reward.name] = torch.cat([before, scores]), why | {start + i: text for i, text in reasons.items()}
    return found


def measure_generations(name: str, prompts: list[str], entries: list[list[Entry]],
                        tools: MetricSuite) -> GenerationMetrics:
    """Measure entries [P][K]; what a reward cannot score is counted as in `metrics_of`.

    Raises UserError naming a file that cannot be read, or whose features are not finite.
    """
    count, seeds = len(prompts), len(entries[0])
    digests = _digests(name, entries, tools.workers)
    extractor, lpips = _identity(tools.features), tools.lpips.fingerprint if tools.lpips else None
    medium = medium_of_entries(entries)
    kinds = ("text 2", "texts") if medium is TEXT else ("image", "pixels")
    keys = [[f"{VERSION} {kinds[0]} {digest} {extractor}" for digest in row] for row in digests]
    pair_keys = [f"{VERSION} {kinds[1]} {hashlib.sha256(''.join(row).encode()).hexdigest()} {lpips}"
                 for row in digests]
    records = _known(tools.store, [key for row in keys for key in row], medium)
    pixels = _known_pixels(tools.store, pair_keys)
    rewards = {reward.name: torch.full((count, seeds), float("nan")) for reward in tools.rewards}
    why: dict[str, str] = {}
    needed = [p for p in range(count)
              if rewards or pair_keys[p] not in pixels or any(key not in records for key in keys[p])]
    with tqdm(total=len(needed) * seeds, desc=f"measuring {name}", unit="file") as progress:
        at_once = VIDEOS_AT_ONCE if any(may_be_video(entry.file) for entry in entries[0]) else FILES_AT_ONCE
        for part in _chunks(needed, seeds, at_once):
            decoded = _decode(name, [entries[p] for p in part], tools.workers)
            fresh = _records([(keys[p][k], sample) for p, row in zip(part, decoded, strict=True)
                              for k, sample in enumerate(row) if keys[p][k] not in records], tools, medium)
            distances = {pair_keys[p]: medium.of_prompt(row, tools.lpips)
                         for p, row in zip(part, decoded, strict=True) if pair_keys[p] not in pixels}
            _put(tools.store, fresh, distances)
            records |= fresh
            pixels |= distances
            for reward in tools.rewards:
                scores, reasons = scores_of(reward, [sample for row in decoded for sample in row])
                rewards[reward.name][part] = scores.view(len(part), seeds)
                if reasons:
                    why.setdefault(reward.name, next(iter(reasons.values())))
            progress.update(len(part) * seeds)
    rows = [[records[key] for key in row] for row in keys]
    features = torch.from_numpy(np.stack([np.stack([record.features for record in row]) for row in rows]))
    style = by_name(medium.style, np.stack([np.stack([record.style for record in row]) for row in rows]))
    _refuse_bad_features(name, features, entries)
    table = np.array([pixels[key] for key in pair_keys])
    measured = reduce(prompts, rewards, features, style, dict(zip(medium.together, table.T, strict=True)), why)
    return GenerationMetrics(measured, rewards, features, style,
                [[record.boxes for record in row] for row in rows],
                sum(len(row) - len(set(row)) for row in digests), digests)


def _chunks(numbers: list[int], seeds: int, at_once: int) -> Iterator[list[int]]:
    size = max(1, at_once // seeds)
    for start in range(0, len(numbers), size):
        yield numbers[start:start + size]


def _digests(name: str, entries: list[list[Entry]], workers: int) -> list[list[str]]:
    """Hashes of the files' contents."""
    def digest(entry: Entry) -> str:
        if entry.problem:
            raise UserError(f"{name}: {entry.problem}")
        try:
            return entry.digest()
        except OSError as error:
            raise UserError(f"{name}: {entry.file} cannot be read ({error.strerror})") from None

    with ThreadPoolExecutor(workers) as pool:
        return [list(pool.map(digest, row)) for row in entries]


def _identity(features: FeatureExtractor) -> str:
    """The extractor: its source, and for a folder the sizes and times of its files."""
    folder = features.weights_folder()
    if folder is None:
        return features.source
    files = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in folder.iterdir())
    return hashlib.sha256(repr((str(folder.resolve()), files)).encode()).hexdigest()


def _known(store: SqliteCache | None, keys: list[str], medium: Medium) -> dict[str, _Record]:
    return {key: _Record.unpack(data, medium) for key, data in store.get(keys).items()} if store else {}


def _known_pixels(store: SqliteCache | None, keys: list[str]) -> dict[str, tuple[float, ...]]:
    return {key: tuple(np.frombuffer(data, "<f8")) for key, data in store.get(keys).items()} if store else {}


def _put(store: SqliteCache | None, records: dict[str, _Record], distances: dict[str, tuple[float, ...]]) -> None:
    if store:
        store.put_all({key: record.pack() for key, record in records.items()}
                      | {key: np.array(pair, "<f8").tobytes() for key, pair in distances.items()})


def _decode(name: str, rows: list[list[Entry]], workers: int) -> list[list[Sample]]:
    def read(entry: Entry) -> Sample:
        try:
            return entry.sample()
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    with ThreadPoolExecutor(workers) as pool:
        return [list(pool.map(read, row)) for row in rows]


def _records(wanted: list[tuple[str, Sample]], tools: MetricSuite, medium: Medium) -> dict[str, _Record]:
    distinct = dict(wanted)  # the same file twice is measured once
    if not distinct:
        return {}
    features = tools.features.sample_features(list(distinct.values())).numpy()
    with ThreadPoolExecutor(tools.workers) as pool:
        style = list(pool.map(medium.style_of, distinct.values()))
        boxes = list(pool.map(medium.boxes_of, distinct.values()))
    # rounded as stored, so that fresh and cached measurements are the same bits
    return {key: _Record.unpack(_Record(*parts).pack(), medium)
            for key, *parts in zip(distinct, style, boxes, features, strict=True)}


def _refuse_bad_features(name: str, features: Tensor, entries: list[list[Entry]]) -> None:
    bad = (~features.isfinite()).any(-1).nonzero()
    if len(bad):
        p, k = bad[0].tolist()
        raise UserError(f"{name}: the features of {len(bad)} files are not finite, the first of {entries[p][k].path}; "
                        "the feature model does not work on them in this precision")
