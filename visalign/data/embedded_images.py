"""The captions of the embedded emoji set."""

import functools
import hashlib
from pathlib import Path

EMOJI = Path(__file__).resolve().parents[1] / "assets" / "emoji" / "emoji.parquet"


def emoji_captions(split: str) -> list[str]:
    """Distinct captions of the embedded set with `split` train or held_out, in a fixed mixed order."""
    return list(_captions(split))


@functools.cache
def _captions(split: str) -> tuple[str, ...]:
    import pyarrow.parquet as pq

    rows = pq.read_table(EMOJI, columns=["captions"]).column("captions").to_pylist()
    texts = {caption["text"] for row in rows for caption in row if caption["split"] == split}
    return tuple(sorted(texts, key=lambda text: hashlib.sha256(f"order {text}".encode()).hexdigest()))
