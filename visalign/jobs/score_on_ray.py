"""`visalign score --engine ray`: the scoring of score.py, partition by partition, on the machines of a Ray cluster.

OUT is a folder or a URL with the rows of each partition (partition_folder.py) and summary.json.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from visalign.config.sources import PromptsFrom
from visalign.data.chunks import gathered, weight_of
from visalign.data.entry import Entry
from visalign.data.partitions import Part, Parts, partitions_of
from visalign.errors import UserError
from visalign.jobs import score
from visalign.jobs.on_ray import RaySettings, Work, WorkerShare, run_partitions
from visalign.jobs.partition_folder import PartitionFolder
from visalign.parallel.ray_cluster import check_ray
from visalign.rewards import Reward, expand
from visalign.rewards.registry import load_rewards
from visalign.storage.locations import Location


@dataclass(frozen=True)
class PartitionedScores:
    """The result: rows, what they are of, unreadable ones, the folder, a line per reward, notes; the partitions of the
    source, and those of the scores."""

    rows: int
    kinds: str
    broken: int
    folder: str
    lines: tuple[str, ...]
    notes: tuple[str, ...]
    parts: Parts
    scores: PartitionFolder


def score_on_ray(source: str, specs: list, out: str, ray: RaySettings, *, device: str = "auto",
                 max_failures: float = 0.05, prompts_from: PromptsFrom = "auto", media_root: str | None = None,
                 workers: int | None = None, again: bool = False) -> PartitionedScores:
    """Score every generation of `source` into the folder `out`; what an earlier run scored is not scored again.

    workers: threads that decode in each process. again: whether all may be scored already. Raises UserError as
    `score_generations` does.
    """
    check_ray("--engine ray")
    if out.lower().endswith(tuple(score.WRITERS)):
        raise UserError(f"out {out}: --engine ray writes a folder of partitions; name one without an ending")
    rewards = load_rewards(specs)
    grouped = any(reward.needs_group for reward in rewards)
    parts = partitions_of(source, ray.partition_size, prompts_from, media_root, grouped)
    folder = PartitionFolder(Location(out), settings_of(source, specs, parts, ray), [p.stamp() for p in parts.each])
    missing = {number: parts.each[number] for number in folder.open(again)}
    tally = Tally(rewards, folder, max_failures, parts.hint)
    if missing:
        make = functools.partial(scorer, specs, folder, workers)
        for result in run_partitions(missing, make, ray, device, "scoring"):
            tally.add(result["number"], result["failures"])
            tally.check(score.LEAST_FOR_SHARE)
    return summarised(folder, rewards, parts, max_failures)


def settings_of(source: str, specs: list, parts: Parts, ray: RaySettings) -> dict:
    """What identifies a folder of scores, apart from the files' contents."""
    return {"source": str(Location(source)) if Location(source).is_url else Location(source).path,
            "rewards": [expand(spec) for spec in specs], "partition_size": ray.partition_size, "files": parts.name()}


def scorer(specs: list, folder: PartitionFolder, threads: int | None, share: WorkerShare) -> Work:
    """In a worker: what scores a partition and counts its failures."""
    rewards = load_rewards(specs, share.device)
    decoding = threads or max(1, round(share.cpus))

    def work(number: int, part: Part) -> dict:
        if folder.has(number):  # a worker died after it had written it
            table = folder.read(number)
        else:
            table = score_part(part, rewards, decoding)
            folder.write(number, [table])
        return {"number": number, "failures": failures_in(table, rewards)}

    return work


def score_part(part: Part, rewards: list[Reward], threads: int) -> pa.Table:
    """The rows of one partition, in its order; about three chunks of it are in memory."""
    chunks: Iterable[list[Entry]] = gathered(([entry] for entry in part.entries()), score.CHUNK, weight_of)
    if any(reward.needs_group for reward in rewards):
        entries = list(part.entries())
        chunks = ([entries[i] for i in chunk] for chunk in score.in_chunks(entries, rewards))
    tables = [score.score_chunk(chunk, list(range(len(chunk))), samples, rewards)
              for chunk, samples in score.decoded(chunks, threads)]
    return pa.concat_tables(tables, promote_options="default").drop_columns("index")


def failures_in(table: pa.Table, rewards: list[Reward]) -> dict[str, list]:
    """By reward: samples given to it, samples it could not score, and the first reasons."""
    counts = {}
    for reward in rewards:
        count = score.Failures()
        count.add(table, reward)
        counts[reward.name] = [count.given, count.failed, count.reasons]
    return counts


class Tally:
    """Failures of all partitions so far; those in which too much failed are scored again when a command that ended for
    that reason is continued."""

    def __init__(self, rewards: list[Reward], folder: PartitionFolder, most: float, hint: str):
        self.counts = {reward.name: score.Failures() for reward in rewards}
        self.folder, self.most, self.hint = folder, most, hint
        self._failed: set[int] = set()

    def add(self, number: int, failures: dict[str, list]) -> None:
        for name, (given, failed, reasons) in failures.items():
            count = self.counts[name]
            count.given, count.failed = count.given + given, count.failed + failed
            count.reasons = (count.reasons + reasons)[:3]
            if failed > self.most * given:
                self._failed.add(number)

    def check(self, least: int) -> None:
        """Raise UserError when a reward failed on more than the allowed share of at least so many samples."""
        try:
            for name, count in self.counts.items():
                count.check(name, self.most, least, self.hint)
        except UserError:
            for number in self._failed:
                self.folder.remove(number)
            raise


def summarised(folder: PartitionFolder, rewards: list[Reward], parts: Parts, max_failures: float) -> PartitionedScores:
    """Counts and means over all partitions, one after another, also in summary.json."""
    names = [f"{reward.name}.{dimension}" for reward in rewards for dimension in reward.dimensions]
    means = {name: RunningMean() for name in names}
    tally, rows, broken, said = Tally(rewards, folder, max_failures, parts.hint), 0, 0, None
    unread: list[str] = []
    for number, table in enumerate(folder.tables(["path", "modality", "error", "remarks", *names])):
        tally.add(number, failures_in(table, rewards))
        for name in names:
            means[name].add(table.column(name).drop_null().to_numpy())
        wrong = table.column("error").drop_null()
        rows, broken = rows + len(table), broken + len(wrong)
        unread += wrong.slice(0, 3 - len(unread)).to_pylist()
        said = said or next(iter(table.column("remarks").drop_null().slice(0, 1).to_pylist()), None)
    tally.check(1)
    figures = {name: {"mean": each.mean, "std": each.std, "scored": each.count} for name, each in means.items()}
    folder.close({"rows": rows, "unreadable": broken, "first": unread, "scores": figures})
    notes = (*parts.notes, *(f"unreadable: {reason}" for reason in unread))
    if broken == rows:
        raise UserError(". ".join([f"input {folder.settings['source']}: none of its {rows} files could be read; "
                                   f"{folder.out} says why for each", *notes]))
    if any(reward.needs_prompt for reward in rewards) and parts.hint:
        notes += (parts.hint,)
    lines = tuple(score.figures_line(name, each.mean, each.std, each.count, rows, said) for name, each in means.items())
    return PartitionedScores(rows, parts.kinds, broken, str(folder.out), lines, notes, parts, folder)


@dataclass
class RunningMean:
    """Mean and standard deviation of what is added, without keeping it (Chan, Golub and LeVeque 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values) -> None:
        """values: [n] of numpy."""
        if not len(values):
            return
        values = values.astype(float)
        mean, total = float(values.mean()), self.count + len(values)
        self.squares += float(((values - mean) ** 2).sum()) + (mean - self.mean) ** 2 * self.count * len(values) / total
        self.mean += (mean - self.mean) * len(values) / total
        self.count = total

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else 0.0
