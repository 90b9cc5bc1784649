"""Edits of the embedded drawings: instructions with their source images, and preference pairs that need nobody's
opinion.

    prompts: emoji-edits:train      sources that the embedded edit model may have seen, and instructions that it has
    prompts: emoji-edits:held_out   other sources, and the instructions of UNSEEN_EDITS as well
    data.path: emoji-edits:pairs    of two edits of a training source, the one that was asked for
"""

import io
import random
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from visalign.data.edits import KEPT_SOURCES, kept_source
from visalign.media.emoji_edits import EDITS, apply_edit
from visalign.media.source_images import with_sources

EDIT_ROWS = Path(__file__).resolve().parents[1] / "assets" / "emoji" / "edits.parquet"
"""Columns: prompt (an instruction), source (an image's bytes), split."""
EDIT_PAIRS = "emoji-edits:pairs"
UNSEEN_EDITS = ("make it dark green", "make it light blue")
"""In no training of the embedded edit model, which saw the other colours dark and light."""


def _rows(split: str) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(EDIT_ROWS, filters=[("split", "=", split)]).to_pylist()


def edit_prompts(split: str) -> list[str]:
    """Instructions with their source images of `split` train or held_out, in a fixed mixed order."""
    folder = Path(KEPT_SOURCES).expanduser()
    return [with_sources(row["prompt"], [kept_source(row["source"], "webp", folder)]) for row in _rows(split)]


def edit_pair_rows() -> Iterator[tuple[str, dict]]:
    """(where, {prompt, source, chosen, rejected}) for every training row: what was asked for, and what was not.

    Rejected is another edit of the same source, or the source itself. The choice is always the same.
    """
    for number, row in enumerate(_rows("train")):
        source = Image.open(io.BytesIO(row["source"])).convert("RGB")
        others = [words for words in EDITS if words not in (row["prompt"], *UNSEEN_EDITS)]
        other = random.Random(f"pairs {number}").choice([None, None, *others])
        chosen, rejected = (_bytes_of(image) for image in (
            apply_edit(row["prompt"], source), apply_edit(other, source) if other else source))
        yield f"{EDIT_PAIRS} '{row['prompt']}' {number}", {
            "prompt": row["prompt"], "source": row["source"], "chosen": chosen, "rejected": rejected}


def _bytes_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
