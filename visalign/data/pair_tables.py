"""Pairs as one parquet file that `train` reads."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from visalign.config import DataSettings
from visalign.data.preference_pair import PreferencePair
from visalign.data.preferences import read_pairs
from visalign.storage.files import write_atomically

PAIR_COLUMNS = ("prompt", "chosen", "rejected", "strength", "chosen_reward", "rejected_reward", "chance", "where")


def save_pairs(pairs: list[PreferencePair], file: Path) -> None:
    """Write pairs whose images are bytes, or files named from the table's folder, atomically."""
    columns = PAIR_COLUMNS + tuple(name for name in ("user", "sources", "rejected_prompt")
                              if any(getattr(pair, name) for pair in pairs))
    noted = sorted({name for pair in pairs for name in pair.notes})
    table = pa.Table.from_pylist([{name: getattr(pair, name) for name in columns}
                                  | {name: pair.notes.get(name) for name in noted} for pair in pairs])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(file, sink.getvalue().to_pybytes())


def read_saved_pairs(file: Path, labelled: bool = False) -> Iterator[PreferencePair]:
    """labelled: each as a good and a bad sample."""
    return read_pairs(DataSettings(path=str(file), format="table"), labelled=labelled, compared=not labelled)
