"""Preference pairs that need nobody's opinion: of two embedded drawings, the one that the caption describes.

`data.path: emoji:pairs`. Both drawings are real, so what they teach is to follow the prompt.
"""

import random
from collections import defaultdict
from collections.abc import Iterator

from visalign.data.embedded_images import EMOJI, emoji_captions

PAIRS = "emoji:pairs"
PER_CAPTION = 8


def drawings_by_caption() -> tuple[list[dict], dict[str, list[int]]]:
    """The embedded drawings that may be trained on, and the numbers of those that each caption fits, ascending."""
    import pyarrow.parquet as pq

    drawings = [row for row in pq.read_table(EMOJI).to_pylist() if row["split"] == "train"]
    fitting = defaultdict(set)
    for number, row in enumerate(drawings):
        for caption in row["captions"]:
            fitting[caption["text"]].add(number)
    return drawings, {text: sorted(numbers) for text, numbers in fitting.items()}


def drawing_rows() -> Iterator[tuple[str, dict]]:
    """(where, {prompt, chosen, rejected}) for every training caption: a drawing of it, and one that it does not fit.

    Captions of the held-out split and drawings nobody trained on are in none. The choice is always the same.
    """
    drawings, fitting = drawings_by_caption()
    for text in emoji_captions("train"):
        rng = random.Random(f"pairs {text}")
        right = fitting.get(text, [])
        wrong = [number for number in range(len(drawings)) if number not in right]
        for each in range(PER_CAPTION * bool(right)):
            chosen, rejected = (drawings[rng.choice(among)]["image"] for among in (right, wrong))
            yield f"{PAIRS} '{text}' {each}", {"prompt": text, "chosen": chosen, "rejected": rejected}
