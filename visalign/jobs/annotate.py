"""`visalign reward annotate`: a trained reward's margin of every annotation, as columns that training reads.

    strength       mean margin of the labelled winner over the reward's members, in log-odds, kept in [0, most]; what
                   `objective.margin` and `objective.scaled` of a reward recipe multiply
    flip_chance    probability that the label is wrong, by the reward
    margin         the mean margin as it is, below 0 where the reward prefers the other side
    margin_std     its standard deviation over the members, 0 for a reward without an ensemble
    source         the reward that said so

The columns replace those of the same name. A tie keeps the strength that it had.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from visalign.config import DataSettings
from visalign.data.annotations import AnnotatedMedia, Annotation, is_preference_set, read_annotations
from visalign.data.pair_tables import PAIR_COLUMNS
from visalign.data.preferences import read_pairs
from visalign.data.rows import table_rows
from visalign.errors import UserError
from visalign.evaluation.reward_eval import SCORED_FRAMES, SCORING_BATCH, against, column_for
from visalign.media.samples import Sample
from visalign.rewards import JointReward, Reward, load_reward
from visalign.rewards.pairwise import PairReward
from visalign.rewards.strength import Strength, strength_of
from visalign.storage.files import write_atomically


@dataclass(frozen=True)
class Annotated:
    """What was written: rows, decided ones that the reward could score, and how many of those it disagrees with."""

    table: Path
    rows: int
    scored: int
    disagreeing: int
    mean_strength: float


def annotate(spec, path: str, dimensions: tuple[str, ...], out: Path, *, media_root: str | None = None,
             most: float = 3.0, device: str = "cpu") -> Annotated:
    """Write the table at `path` with the reward's columns to the parquet file `out`.

    Raises UserError for single items, which have no strength, and when nothing could be scored.
    """
    if out.suffix != ".parquet":
        raise UserError(f"out {out}: the table is a .parquet file")
    if out.exists():
        raise UserError(f"out {out}: exists already; choose another name or delete it")
    reward = load_reward(spec, device)
    if is_preference_set(path):
        dimensions = reward.dimensions[:1]
    items = read_annotations(path, dimensions, media_root)
    rows = list(pair_rows(path, media_root) if is_preference_set(path) else comparison_rows(path, items))
    found = reward_columns(reward, items, most)
    for row, item, columns in zip(rows, items, found, strict=True):
        for name, media in zip(("chosen", "rejected") if "chosen" in row else "ab", (item.a.media, item.b.media),
                               strict=True):
            row[name] = media if isinstance(media, bytes) else beside(media, out)
        row |= columns | edit_columns_of(item.a, out) | ({"user": item.user} if item.user else {})
    margins = np.array([columns["margin"] for columns in found if columns["margin"] is not None])
    if not len(margins):
        raise UserError(f"reward {reward.name}: could not score a single decided annotation of {path}")
    write_table(rows, path, out)
    return Annotated(out, len(rows), len(margins), int((margins < 0).sum()), float(margins.clip(0, most).mean()))


def beside(file: str, out: Path) -> str:
    """The path of a file as a table at `out` names it."""
    return os.path.relpath(Path(file).resolve(), out.resolve().parent)


def edit_columns_of(media: AnnotatedMedia, out: Path) -> dict:
    """The columns of an edit; {} of others. `source` is taken: it says which reward gave the strength."""
    if not media.sources:
        return {}
    notes = {name: beside(value, out) if name == "mask" else value for name, value in media.notes.items()}
    return {"sources": [beside(file, out) for file in media.sources], **notes}


def pair_rows(path: str, media_root: str | None) -> Iterator[dict]:
    """A preference set's rows as visalign's own table has them, in the order of `read_annotations`."""
    for pair in read_pairs(DataSettings(path=path, media_root=media_root)):
        yield {name: getattr(pair, name) for name in PAIR_COLUMNS if name != "where"}


def comparison_rows(path: str, items: list[Annotation]) -> Iterator[dict]:
    """The table's own rows, in the order of `read_annotations`."""
    for (where, row), item in zip(table_rows(path), items, strict=False):
        if item.where != where or "media" in row:
            raise UserError(f"{where}: is a single item, and only comparisons have a strength; remove the rows with "
                            "'media'")
        yield {name: value for name, value in row.items() if name not in ("path_A", "path_B")} | {
            "strength": item.strength}


def reward_columns(reward: Reward, items: list[Annotation], most: float) -> list[dict]:
    """The reward's columns for each item; empty but for its strength where nothing is decided or it gives no value."""
    margins = winner_margins(reward, items)
    known = np.isfinite(margins).all(1)
    said: Strength = strength_of(margins[known], most)
    numbers = iter(zip(said.strength, said.flip_chance, said.margin, said.margin_std, strict=True))
    names = ("strength", "flip_chance", "margin", "margin_std")
    found = []
    for item, is_known in zip(items, known, strict=True):
        values = map(float, next(numbers)) if is_known else (item.strength, None, None, None)
        found.append(dict(zip(names, values, strict=True)) | {"source": reward.name if is_known else None})
    return found


def winner_margins(reward: Reward, items: list[Annotation]) -> np.ndarray:
    """Margin of the labelled winner by member, in log-odds, averaged over the item's decided dimensions, [n, E].

    NaN where nothing is decided or the reward gives no value.
    """
    found = []
    for start in tqdm(range(0, len(items), SCORING_BATCH), desc=f"scoring with {reward.name}", unit="batch"):
        part = items[start:start + SCORING_BATCH]
        a, b = ([item.sample(side, SCORED_FRAMES) for item in part] for side in "ab")
        margins = member_margins(reward, a, b)
        for item, each in zip(part, margins, strict=True):
            decided = {name: outcome for name, outcome in item.outcome.items() if outcome != 0.5}
            toward = [(2 * outcome - 1) * each[:, column_for(reward, name)] for name, outcome in decided.items()]
            found.append(np.mean(toward, 0) if toward else np.full(margins.shape[1], np.nan))
    return np.stack(found)


def member_margins(reward: Reward, a: list[Sample], b: list[Sample]) -> np.ndarray:
    """Margins of a over b in log-odds, [n, E, D]; E is 1 for a reward that is no ensemble."""
    if isinstance(reward, PairReward):
        return against(reward, b)(a)[:, None]
    scale = np.asarray(getattr(reward, "logit_scale", None) or [1.0] * len(reward.dimensions))
    if isinstance(reward, JointReward):
        steps = range(0, len(a), reward.batch_size)
        values = [np.concatenate([reward.member_values(side[i:i + reward.batch_size]).numpy() for i in steps])
                  for side in (a, b)]
        return (values[0] - values[1]) * scale
    value = against(reward, b)
    return ((value(a) - value(b)) * scale)[:, None]


def write_table(rows: list[dict], source: str, out: Path) -> None:
    """Rows as parquet; a column that a row lacks is null there."""
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        table = pa.table({name: [row.get(name) for row in rows] for name in names})
    except pa.ArrowException as error:
        raise UserError(f"data {source}: a column holds values of different kinds, which one parquet table cannot "
                        f"({' '.join(str(error).split())[:120]})") from None
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(out, sink.getvalue().to_pybytes())
