"""Pairs as one parquet file that `train` reads again."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from visalign.config import Data
from visalign.data.pair import Pair
from visalign.data.preferences import read_pairs
from visalign.disk import write_atomically

COLUMNS = ("prompt", "chosen", "rejected", "strength", "chosen_reward", "rejected_reward", "where")


def save_pairs(pairs: list[Pair], file: Path) -> None:
    """Write pairs whose pictures are bytes; the file appears whole or not at all."""
    table = pa.Table.from_pylist([{name: getattr(pair, name) for name in COLUMNS} for pair in pairs])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(file, sink.getvalue().to_pybytes())


def read_saved_pairs(file: Path) -> Iterator[Pair]:
    return read_pairs(Data(path=str(file), format="table"))
