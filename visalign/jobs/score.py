"""`visalign score`: several rewards' scores of every generation of a folder, as one table and a gallery.

Files are decoded in threads while the rewards score; every chunk is on disk before the next begins, so a killed run
continues where it stopped; several processes (torchrun) share the work; memory does not grow with the number of files.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from accelerate import PartialState
from tqdm import tqdm

from visalign.config.sources import PromptsFrom
from visalign.data.chunks import gathered, kept_together, weight_of
from visalign.data.entry import Entry, Generations
from visalign.data.generations import find_generations
from visalign.data.text_generations import TextEntry
from visalign.errors import UserError
from visalign.evaluators.statistics import over_prompts
from visalign.evaluators.verdict import percent
from visalign.media.samples import Sample
from visalign.rewards import Reward, expand
from visalign.rewards.reference import GROUP
from visalign.rewards.registry import load_rewards
from visalign.storage.files import write_atomically, written
from visalign.storage.text_files import printable

CHUNK = 256
TASK = 16
"""Images in a chunk, and images that one thread decodes at a time."""
LEAST_FOR_SHARE = 20
"""A reward's share of failures is first checked after this many samples, and at the end."""


@dataclass
class Failures:
    """How many samples one reward was given and could not score, and the first reasons."""

    given: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, table: pa.Table, reward: Reward) -> None:
        """Count a chunk's rows: a sample of the reward's modality without a single value is a failure."""
        suited = pc.is_in(table.column("modality"), value_set=pa.array(sorted(reward.modalities)))
        asked = table.filter(suited)
        for dimension in reward.dimensions:
            table = asked if dimension == reward.dimensions[0] else table
            table = table.filter(pc.is_null(table.column(f"{reward.name}.{dimension}")))
        self.given, self.failed = self.given + len(asked), self.failed + len(table)
        some = table.slice(0, 3 - len(self.reasons))
        for path, remarks in zip(*(some.column(name).to_pylist() for name in ("path", "remarks")), strict=True):
            self.reasons.append(f"{path}: {remarks}")

    def check(self, name: str, most: float, least: int, hint: str = "") -> None:
        """Raise UserError when more than the share `most` failed among at least `least`; `hint` says what may help."""
        if self.given >= least and self.failed > most * self.given:
            raise UserError(f"reward {name}: could not score {self.failed} of {self.given} samples, more than the "
                            f"allowed share of {most:g} (--max-failures); first reasons: {'; '.join(self.reasons)}"
                            + (f". {hint}" if hint else ""))


@dataclass(frozen=True)
class ScoreSummary:
    """The result of `visalign score`: rows in the table, kinds of files, unreadable ones, paths of table and gallery, a
    line per reward, and a sentence for whatever was left out or could not be read."""

    rows: int
    kinds: str
    broken: int
    table: Path
    gallery: Path | None
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def score_generations(source: str, specs: list, out: Path, *, device: str = "cpu", max_failures: float = 0.05,
                      prompts_from: PromptsFrom = "auto", media_root: str | None = None, workers: int | None = None,
                      gallery: bool = True) -> ScoreSummary:
    """Score every generation of `source` into the table `out` (see WRITERS), and a page beside it.

    Raises UserError when a reward fails too often, or when `out` exists.
    """
    state = PartialState()
    device = str(state.device) if device == "cuda" else device
    entries = find_generations(source, prompts_from, media_root)
    hint = entries.prompt_hint
    rewards = load_rewards(specs, device)
    check_texts_scored(entries, rewards)
    store = PartStore(out, identity_of(source, specs, entries), [entry.stamp() for entry in entries],
                      state.process_index)
    if state.is_main_process:
        store.open()
    state.wait_for_everyone()
    done = store.done()
    chunks = [[i for i in chunk if i not in done] for chunk in in_chunks(entries, rewards)]
    mine = [chunk for chunk in chunks if chunk][state.process_index::state.num_processes]
    failures = [(reward, Failures()) for reward in rewards]
    for part in store.parts():  # failures of an earlier, stopped run count too
        kept = read_table(part)
        for reward, count in failures:
            count.add(kept, reward)
    state.wait_for_everyone()
    with tqdm(total=sum(map(len, mine)), desc="scoring", unit="file", disable=not state.is_main_process) as progress:
        at_once = decoded(([entries[i] for i in chunk] for chunk in mine), workers or default_threads())
        for chunk, (_, samples) in zip(mine, at_once, strict=True):
            table = score_chunk(entries, chunk, samples, rewards)
            for reward, count in failures:
                count.add(table, reward)
                count.check(reward.name, max_failures, 1 if chunk is mine[-1] else LEAST_FOR_SHARE, hint)
            store.write(table)  # only now, so that a chunk that stopped the run is scored again when it continues
            progress.update(len(chunk))
    state.wait_for_everyone()
    page, table = None, store.table()
    state.wait_for_everyone()
    if state.is_main_process:
        write_scores(table, out)
        if gallery and table.column("error").null_count:
            from visalign.reports.gallery import write_gallery

            page = write_gallery(table, entries, rewards, out.with_suffix(".html"))
        store.close()
    state.wait_for_everyone()
    broken = table.filter(pc.is_valid(table.column("error")))
    unread = [f"unreadable: {reason}" for reason in broken.column("error").to_pylist()[:3]]
    if len(broken) == len(table):
        raise UserError(". ".join([f"input {printable(str(source))}: none of its {len(table)} files could be read; "
                                   f"{out} says why for each", *unread, *entries.notes]))
    if any(reward.needs_prompt for reward in rewards) and hint:
        unread.append(hint)
    kinds = Counter(entry.kind for entry in entries)
    named = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return ScoreSummary(len(table), named, len(broken), out, page, means(table, rewards), (*entries.notes, *unread))


def check_texts_scored(entries: Generations, rewards: list[Reward]) -> None:
    """Raise UserError where all generations are texts and none of the rewards scores texts."""
    if all(isinstance(entry, TextEntry) for entry in entries) and not any("text" in r.modalities for r in rewards):
        raise UserError(f"rewards: none of {', '.join(reward.name for reward in rewards)} scores texts; name others, "
                        "such as relevance, repetition or brevity (`visalign list rewards`)")


def read_table(file: Path, columns: list[str] | None = None) -> pa.Table:
    """A table of scores. Raises ArrowException or OSError."""
    with file.open("rb") as data:  # pyarrow treats names as URIs, and takes only UTF-8
        return pq.read_table(data, columns=columns)


def _as_parquet(table: pa.Table, sink) -> None:
    pq.write_table(table, sink, compression="zstd")


def _as_csv(table: pa.Table, sink) -> None:
    pa_csv.write_csv(table, sink)


def _as_jsonl(table: pa.Table, sink) -> None:
    for row in table.to_pylist():
        sink.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


WRITERS: dict[str, Callable] = {".parquet": _as_parquet, ".csv": _as_csv, ".jsonl": _as_jsonl}
"""By the file's ending. Only parquet keeps what the table is of (MARK), which `visalign data pairs` asks for."""


def write_scores(table: pa.Table, out: Path) -> None:
    """The table of scores in the format that the ending of `out` names."""
    sink = pa.BufferOutputStream()
    WRITERS[out.suffix.lower()](table, sink)
    write_atomically(out, sink.getvalue().to_pybytes())


def identity_of(source: str, specs: list, entries: Generations) -> dict:
    """What identifies a table of scores, apart from the files' contents (`files_of`)."""
    listing = json.dumps([(entry.path, entry.group) for entry in entries])
    return {"source": printable(str(Path(source).resolve())), "rewards": [expand(spec) for spec in specs],
            "files": hashlib.sha256(listing.encode()).hexdigest()}


def belongs(table: pa.Table, identity: dict, stamps: list[str]) -> bool:
    """Whether a finished table is of these rewards and of these files in their present state."""
    known = (table.schema.metadata or {}).get(MARK)
    return known is not None and json.loads(known) == identity | {"stamps": scoring_digest(stamps)}


def scoring_digest(stamps: list[str]) -> str:
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()


MARK = b"visalign"
"""The metadata key under which a table of scores stores its identity."""


def means(table: pa.Table, rewards: list[Reward]) -> tuple[str, ...]:
    """Mean, standard deviation and the number scored, for every dimension of every reward; why, where none was. Of one
    that says of each sample whether it is so, the share with its interval."""
    lines = []
    for name in (f"{reward.name}.{dimension}" for reward in rewards for dimension in reward.dimensions):
        known = table.column(name).drop_null().to_numpy()
        said = next((text for text in table.column("remarks").to_pylist() if text), None)
        lines.append(figures_line(name, len(known) and known.mean(), len(known) and known.std(), len(known), len(table),
                                  said))
    return (*lines, *(share_line(table, reward) for reward in rewards if getattr(reward, "share_of", "")))


def share_line(table: pa.Table, reward: Reward) -> str:
    """The share of samples of which a reward says that it is so, with an interval over prompts."""
    column = table.column(f"{reward.name}.{reward.dimensions[0]}").to_numpy()
    prompts = np.array([prompt or "" for prompt in table.column(GROUP if GROUP in table.column_names else
                                                                "prompt").to_pylist()])
    known = np.isfinite(column)
    if not known.any():
        return f"{reward.share_of:32} unknown"
    _, places = np.unique(prompts[known], return_inverse=True)
    of_prompt = np.bincount(places, column[known]) / np.bincount(places)
    share = over_prompts(lambda rows: of_prompt[rows].mean(), len(of_prompt))
    return f"{reward.share_of:32} {percent(share, '')} of the answers, by {reward.name}"


def figures_line(name: str, mean: float, std: float, scored: int, rows: int, said: str | None) -> str:
    """said: the first remark, given as the reason where nothing was scored."""
    figures = f"mean {mean:9.4f}  std {std:8.4f}" if scored else "no value"
    why = f"; first remark: {said}" if said and not scored else ""
    return f"{name:32} {figures}  scored {scored} of {rows}{why}"


def in_chunks(entries: list[Entry], rewards: list[Reward]) -> Iterator[list[int]]:
    """Indices of entries, about CHUNK images at a time; prompts stay whole when a reward compares within them."""
    rows = kept_together(entries, any(reward.needs_group for reward in rewards))
    return gathered(rows, CHUNK, lambda i: weight_of(entries[i]))


def default_threads() -> int:
    """Threads that decode where nothing is said."""
    return max(1, (os.cpu_count() or 2) // 2)


def read_or_explain(entry: Entry) -> Sample | str:
    try:
        return entry.sample()
    except UserError as error:
        return str(error)


def read_some(entries: list[Entry]) -> list[Sample | str]:
    return [read_or_explain(entry) for entry in entries]


def decoded(chunks: Iterable[list[Entry]], workers: int) -> Iterator[tuple[list[Entry], list[Sample | str]]]:
    """Chunks with their samples (or the reason for none), decoded in threads up to two chunks ahead."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: list[tuple[list[Entry], list[Future]]] = []
        for chunk in chunks:
            ahead.append((chunk, [pool.submit(read_some, chunk[k:k + TASK]) for k in range(0, len(chunk), TASK)]))
            if len(ahead) == 3:
                first, futures = ahead.pop(0)
                yield first, [sample for future in futures for sample in future.result()]
        for chunk, futures in ahead:
            yield chunk, [sample for future in futures for sample in future.result()]


def score_chunk(entries: list[Entry], chunk: list[int], samples: list[Sample | str],
                rewards: list[Reward]) -> pa.Table:
    """One table row per file: its metadata, every reward's values and spread, and remarks."""
    readable = [k for k, sample in enumerate(samples) if isinstance(sample, Sample)]
    given = [samples[k] for k in readable]
    columns: dict[str, list] = {
        "index": chunk, "path": [entries[i].path for i in chunk], "prompt": [entries[i].prompt for i in chunk],
        "seed": [entries[i].seed for i in chunk],
        "modality": [s.modality if isinstance(s, Sample) else None for s in samples],
        "error": [s if isinstance(s, str) else None for s in samples]}
    if any(entry.group != entry.prompt for entry in entries):
        columns[GROUP] = [entries[i].group for i in chunk]
    remarks: list[list[str]] = [list(s.known.get("remarks", ())) if isinstance(s, Sample) else [] for s in samples]
    for reward in rewards:
        answer = reward.score(given)
        spreads = [("", answer.values)] + ([(".spread", answer.spread)] if answer.spread is not None else [])
        for suffix, values in spreads:
            for j, dimension in enumerate(reward.dimensions):
                column: list[float | None] = [None] * len(chunk)
                for k, value in zip(readable, values[:, j].tolist(), strict=True):
                    column[k] = None if value != value else value
                columns[f"{reward.name}.{dimension}{suffix}"] = column
        for row, text in answer.remarks.items():
            remarks[readable[row]].append(f"{reward.name}: {text}")
    columns["remarks"] = [printable("; ".join(each)) or None for each in remarks]
    return pa.table(columns, schema=schema_of(columns, entries))


def schema_of(columns: dict[str, list], entries: list[Entry]) -> pa.Schema:
    """Seeds above 2^63, which ComfyUI draws, need the unsigned type."""
    large = any(entry.seed is not None and entry.seed >= 2**63 for entry in entries)
    kinds = {"index": pa.int64(), "seed": pa.uint64() if large else pa.int64(), "path": pa.string(),
             **dict.fromkeys(("prompt", GROUP, "modality", "error", "remarks"), pa.string())}
    return pa.schema([(name, kinds.get(name, pa.float32())) for name in columns])


class PartStore:
    """Finished chunks beside the future table: `NAME.parts/`, each written atomically.

    stamps: of every entry's file; a part with a file that has changed since is discarded, so that it is scored again.
    """

    def __init__(self, out: Path, settings: dict, stamps: list[str], rank: int):
        self.out, self.settings, self.stamps, self.rank = out, settings, stamps, rank
        self.folder = out.with_name(out.name + ".parts")
        self._written = 0

    def open(self) -> None:
        """Raise UserError when the table exists, without parts of a command that ended before its gallery, or when the
        parts belong to another command."""
        if self.out.suffix.lower() not in WRITERS:
            raise UserError(f"out {self.out}: a table ends in {', '.join(WRITERS)}")
        if self.out.exists() and not self.folder.exists():
            raise UserError(f"out {self.out}: exists already; choose another name or delete it")
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "settings.json"
        if file.is_file() and written(file) != self.settings:
            raise UserError(f"out {self.out}: {self.folder} holds an unfinished run over another input or with other "
                            "rewards; finish that one, delete it, or choose another name")
        write_atomically(file, json.dumps(self.settings).encode())
        for part in self.parts():
            table = read_table(part, columns=["index"])
            if (table.schema.metadata or {}).get(MARK, b"").decode() != self._mark(table):
                part.unlink()

    def _mark(self, table: pa.Table) -> str:
        return scoring_digest([self.stamps[i] for i in table.column("index").to_pylist()])

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def done(self) -> set[int]:
        """Indices of the entries that earlier runs scored."""
        return {i for part in self.parts() for i in read_table(part, columns=["index"]).column(0).to_pylist()}

    def write(self, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({MARK: self._mark(table)}), sink)
        first = table.column("index")[0].as_py()
        write_atomically(self.folder / f"part-{first:010d}-{self.rank}-{self._written}.parquet",
                         sink.getvalue().to_pybytes())
        self._written += 1

    def table(self) -> pa.Table:
        """All parts as one table in the source's order."""
        tables = [read_table(part).replace_schema_metadata() for part in self.parts()]
        # a column such as a spread may be missing from a chunk in which no file could be read
        table = pa.concat_tables(tables, promote_options="default").sort_by("index").drop_columns("index")
        mark = self.settings | {"stamps": scoring_digest(self.stamps)}
        return table.replace_schema_metadata({MARK: json.dumps(mark)})

    def close(self) -> None:
        """Remove the parts, once the table is complete."""
        shutil.rmtree(self.folder)
