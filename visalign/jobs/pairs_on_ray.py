"""`visalign data pairs --engine ray`: scores, then the pairs of make_pairs.py, though prompts lie in all partitions.

    OUT/scores/  the reward of each generation (score_on_ray.py)
    OUT/sorted/  the same by prompt: each file holds many partitions, and one row group for every bucket of prompts;
                 removed in the end
    OUT/pairs/   the pairs of each bucket, which `train` reads as a folder of tables
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from visalign.config.sources import PromptsFrom
from visalign.data.entry import Entry, PackedEntry
from visalign.data.pair_selection import Candidate, PairCounts, keep
from visalign.data.partitions import Part
from visalign.errors import UserError
from visalign.jobs.make_pairs import (
    SEVERAL,
    SHEET_ROWS,
    PairSettings,
    Ranking,
    check_number,
    dimension_of,
    edit_of,
    named_from,
    pair_row,
    propose,
)
from visalign.jobs.on_ray import RaySettings, Work, WorkerShare, run_partitions
from visalign.jobs.partition_folder import PartitionFolder
from visalign.jobs.score import MARK
from visalign.jobs.score_on_ray import score_on_ray
from visalign.media.source_images import sheet_row
from visalign.media.video_files import save_sheet
from visalign.rewards import load_reward
from visalign.storage.locations import Location, is_url

BUCKET_ROWS = 500_000
"""Generations in a bucket of prompts, and in a file of `sorted`: about what a worker holds in memory."""


@dataclass(frozen=True)
class Block:
    """Partitions that are sorted together: of the source, and their numbers."""

    parts: dict[int, Part]

    def name(self) -> str:
        return f"partitions {min(self.parts)} to {max(self.parts)}"


@dataclass(frozen=True)
class Bucket:
    """One of the buckets of prompts."""

    number: int

    def name(self) -> str:
        return f"bucket {self.number} of the prompts"


def pairs_on_ray(source: str, rewards: Sequence[str], out: Path, settings: PairSettings, ray: RaySettings, *,
                 device: str = "auto", max_failures: float = 0.05, prompts_from: PromptsFrom = "auto",
                 media_root: str | None = None) -> tuple[PairCounts, tuple[str, ...]]:
    """As `make_pairs`, into tables in `out`/pairs. Raises UserError also for a ranker, for strategies of several
    rewards, and for media that no path names."""
    check_number(rewards, settings)
    if settings.strategy in SEVERAL:
        raise UserError(f"pairs: strategy {settings.strategy} compares on one machine; leave out --engine ray")
    [reward] = rewards
    model = load_reward(reward)
    column = f"{model.name}.{dimension_of(model, settings)}"
    for option in ("ranker", "second_reward"):
        if getattr(settings, option):
            raise UserError(f"pairs: --{option.replace('_', '-')} compares on one machine; leave out --engine ray")
    if is_url(str(out)):
        raise UserError(f"out {out}: pairs are written to a disk, beside the images and videos that they name")
    done = score_on_ray(source, [reward], str(out / "scores"), ray, device=device, max_failures=max_failures,
                        prompts_from=prompts_from, media_root=media_root, again=True)
    said = asdict(settings) | {"column": column, "rows": BUCKET_ROWS}
    blocks = in_blocks(done.parts.each, max(1, len(done.parts.each) * BUCKET_ROWS // done.rows))
    scored = [" ".join(done.scores.names[number] for number in block.parts) for block in blocks]
    count = -(-done.rows // BUCKET_ROWS)
    ordered = PartitionFolder(Location(out / "sorted"), said, scored)
    pairs = PartitionFolder(Location(out / "pairs"), said, [f"{number} {' '.join(scored)}" for number in range(count)])
    missing = {number: Bucket(number) for number in pairs.open()}
    if missing:
        unsorted = {number: blocks[number] for number in ordered.open(again=True)}
        if unsorted:
            make = functools.partial(sorter, done.scores, ordered, column, count, out / "pairs")
            consume(run_partitions(unsorted, make, ray, "cpu", "sorting by prompt"))
        make = functools.partial(pairer, ordered, pairs, settings, 1 if model.higher_is_better else -1)
        consume(run_partitions(missing, make, ray, "cpu", "pairing"))
    counts = finished(pairs, out, {"source": source, "reward": reward, **asdict(settings)}, done.notes)
    shutil.rmtree(out / "sorted", ignore_errors=True)
    return counts, done.notes


def in_blocks(parts: list[Part], each: int) -> list[Block]:
    numbered = dict(enumerate(parts))
    return [Block({number: numbered[number] for number in range(start, min(start + each, len(parts)))})
            for start in range(0, len(parts), each)]


def consume(results) -> None:
    for _ in results:
        pass


def bucket_of(group: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") % count


CANDIDATES = pa.schema([("bucket", pa.int32()), ("number", pa.int64()), ("score", pa.float64()),
                        ("spread", pa.float64()), ("group", pa.string()), ("prompt", pa.string()),
                        ("file", pa.string()), ("edit", pa.string())])
"""Of `sorted`. number: orders all generations as the source does. file: as the tables in OUT/pairs name it."""


def sorter(scores: PartitionFolder, ordered: PartitionFolder, column: str, count: int, folder: Path,
           share: WorkerShare) -> Work:
    """In a worker: what brings the scored generations of a block into the order of the buckets."""
    def work(number: int, block: Block) -> dict:
        rows = []
        for place, part in block.parts.items():
            table = scores.read(place, [column, f"{column}.spread"])
            values = table.column(column).to_pylist()
            spread = f"{column}.spread"
            spreads = table.column(spread).to_pylist() if spread in table.column_names else [0.0] * len(values)
            for i, (entry, score, deviation) in enumerate(zip(part.entries(), values, spreads, strict=True)):
                if score is not None and entry.prompt:
                    rows.append({"bucket": bucket_of(entry.group, count), "number": (place << 32) + i,
                                 "score": score, "spread": deviation or 0.0, **naming(entry, folder)})
        table = pa.Table.from_pylist(rows, CANDIDATES).sort_by([("bucket", "ascending"), ("number", "ascending")])
        starts = np.searchsorted(table.column("bucket").to_numpy(), range(count + 1)).tolist()
        ordered.write(number, [table.slice(start, end - start) for start, end in pairwise(starts)])
        return {}

    return work


def naming(entry: Entry, folder: Path) -> dict:
    if isinstance(entry, PackedEntry):
        raise UserError(f"pairs: {entry.path} lies inside an archive, a table or a store, and pairs name files on a "
                        "disk; unpack it first")
    if entry.leaf is not None:
        raise UserError(f"pairs: {entry.path} grew as a tree, whose leaves are paired on one machine; leave out "
                        "--engine ray")
    return {"group": entry.group, "prompt": entry.prompt, "file": named_from(entry.file, folder),
            "edit": json.dumps(edit_of(entry, folder))}


PAIRED = pa.schema([("prompt", pa.string()), ("chosen", pa.string()), ("rejected", pa.string()),
                   ("strength", pa.float64()), ("chosen_reward", pa.float64()), ("rejected_reward", pa.float64())])
"""Of `pairs`, without what edits add."""


def pairer(ordered: PartitionFolder, pairs: PartitionFolder, settings: PairSettings, sign: int,
           share: WorkerShare) -> Work:
    """In a worker: what makes the pairs of a bucket, and counts the others."""
    def work(number: int, bucket: Bucket) -> dict:
        groups: dict[str, list[Candidate]] = {}
        known: dict[int, dict] = {}
        for block in range(len(ordered.names)):
            for row in ordered.read(block, group=bucket.number).to_pylist():
                groups.setdefault(row["group"], []).append(
                    Candidate(row["number"], sign * row["score"], row["spread"]))
                known[row["number"]] = row
        counts, rows = PairCounts(), []
        rank = Ranking([], None, counts, 0.0)
        for candidates in groups.values():
            for a, b in keep(propose(candidates, settings, rank), counts, settings.min_gap, settings.min_confidence):
                better, worse = known[a.number], known[b.number]
                rows.append(pair_row(better["prompt"], (better["file"], worse["file"]), (a, b),
                                     json.loads(better["edit"])))
        noted = sorted({name for row in rows for name in row} - set(PAIRED.names))
        edits = pa.Table.from_pylist([{name: row.get(name) for name in noted} for row in rows]) if noted else None
        table = pa.Table.from_pylist(rows, PAIRED)
        for name in noted:
            table = table.append_column(name, edits.column(name))
        pairs.write(number, [table.replace_schema_metadata({MARK: json.dumps(asdict(counts))})])
        return {}

    return work


def finished(pairs: PartitionFolder, out: Path, settings: dict, notes: tuple[str, ...]) -> PairCounts:
    """The counts of all buckets; a contact sheet of the first pairs, and the summary. Raises UserError without a pair.
    """
    total, first = PairCounts(), []
    for table in pairs.tables():
        for name, count in json.loads(table.schema.metadata[MARK]).items():
            setattr(total, name, getattr(total, name) + count)
        first += table.slice(0, SHEET_ROWS - len(first)).to_pylist()
    if not total.kept:
        raise UserError(". ".join([f"pairs: no pair to train on in {settings['source']}: {total.text()}", *notes]))
    root, sheet = out / "pairs", []
    for row in first:
        sources = tuple(root / file for file in row.get("sources") or ())
        both = [Entry(row[side], root / row[side], row["prompt"], sources=sources) for side in ("chosen", "rejected")]
        label, media = sheet_row([entry.sample(16) for entry in both])
        sheet.append((f"{label} ({row['chosen_reward']:.2f} / {row['rejected_reward']:.2f})", media))
    save_sheet(sheet, out / "sheet.png", cell=128, label_width=240)
    pairs.close(settings | asdict(total))
    return total
