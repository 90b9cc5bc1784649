"""Build the embedded edits: source images from the embedded drawings, and the instructions that show on each.

    python scripts/build_edit_data.py visalign/assets/emoji/edits.parquet

A row is one edit: `prompt` (an instruction), `source` (WebP, lossless, 64x64) and `split`. Sources of `train` are 120
training drawings, those of `held_out` all held-out ones. Instructions that would change too little to be seen on a
source are left out, and those of UNSEEN_EDITS are in `held_out` only.
"""

import argparse
import hashlib
import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "embedded"))
from common import load_rows
from edit_data import drawing

from visalign.data.embedded_edits import UNSEEN_EDITS
from visalign.media.emoji_edits import EDITS, score_edit

TRAIN_SOURCES, TRAIN_EDITS = 120, 4


def order(text: str) -> str:
    return hashlib.sha256(f"edits {text}".encode()).hexdigest()


def lossless(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, method=6)
    return buffer.getvalue()


def sources_of(split: str) -> list[tuple[str, Image.Image]]:
    """(name, image) of the split's sources."""
    named = sorted(((f"{row['name']} {row['style']}", drawing(row)) for row in load_rows(split)),
                   key=lambda each: order(each[0]))
    return named[:TRAIN_SOURCES] if split == "train" else named


def edits_of(split: str) -> list[dict]:
    rows = []
    for name, source in sources_of(split):
        seen = [words for words in EDITS if (split == "held_out" or words not in UNSEEN_EDITS)
                and score_edit(words, source, source)]
        chosen = sorted(seen, key=lambda words: order(f"{name} {words}"))
        rows += [{"prompt": words, "source": lossless(source), "split": split, "name": name}
                 for words in (chosen[:TRAIN_EDITS] if split == "train" else chosen)]
    return sorted(rows, key=lambda row: order(f"{row['prompt']} {row['name']}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the parquet file to write")
    args = parser.parse_args()
    rows = edits_of("train") + edits_of("held_out")
    pq.write_table(pa.Table.from_pylist(rows).drop_columns("name"), args.output, compression="zstd")
    print(f"{sum(row['split'] == 'train' for row in rows)} edits to train on, "
          f"{sum(row['split'] == 'held_out' for row in rows)} held out, {args.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
