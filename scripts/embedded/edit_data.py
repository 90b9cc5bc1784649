"""Sources and what their edits look like, as the embedded edit model and its autoencoder learn them."""

import io
import itertools
import random

import numpy as np
import torch
from common import load_rows
from PIL import Image, ImageOps

from visalign.data.embedded_edits import UNSEEN_EDITS
from visalign.media.emoji_edits import EDITS, apply_edit, score_edit

SIZE = 64
SCALES, SCALE_WEIGHTS = (64, 54, 44), (0.6, 0.2, 0.2)


def drawing(row: dict) -> Image.Image:
    return Image.open(io.BytesIO(row["image"])).convert("RGB")


def as_pixels(images: list[Image.Image]) -> torch.Tensor:
    """float32 [N, 3, 64, 64] in [-1, 1]."""
    stacked = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw_source(image: Image.Image, rng: random.Random) -> Image.Image:
    """A drawing mirrored, smaller or elsewhere: what a source may look like."""
    side = rng.choices(SCALES, SCALE_WEIGHTS)[0]
    canvas = Image.new("RGB", (SIZE, SIZE), "white")
    image = image if rng.random() < 0.5 else ImageOps.mirror(image)
    canvas.paste(image.resize((side, side), Image.Resampling.LANCZOS),
                 (rng.randint(0, SIZE - side), rng.randint(0, SIZE - side)))
    return canvas


def draw_edits(per_drawing: int, per_source: int, seed: int) -> tuple[list, list, list[tuple[int, int, str]]]:
    """(sources, targets, [(source, target, instruction)]) of the training drawings; unseen instructions are in none."""
    rng = random.Random(seed)
    sources, targets, triples = [], [], []
    known = [words for words in EDITS if words not in UNSEEN_EDITS]
    for row in load_rows() * per_drawing:
        source = draw_source(drawing(row), rng)
        seen = (words for words in rng.sample(known, len(known)) if score_edit(words, source, source))
        for words in itertools.islice(seen, per_source):
            triples.append((len(sources), len(targets), words))
            targets.append(apply_edit(words, source))
        sources.append(source)
    return sources, targets, triples
