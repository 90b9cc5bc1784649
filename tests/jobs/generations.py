"""Folders of made-up generations whose diversity is known."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = [(220, 40, 40), (40, 60, 220), (40, 180, 70), (240, 210, 40), (160, 60, 180), (240, 140, 40)]


def drawing(prompt: int, seed: int, kinds: int, brightness: float = 1.0) -> Image.Image:
    """A disc on white whose colour and place follow the seed, `kinds` different ones."""
    kind = seed % kinds
    image = Image.new("RGB", (64, 64), "white")
    colour = tuple(int(brightness * c) for c in COLOURS[(prompt + kind) % len(COLOURS)])
    left, top = 6 + 5 * (kind % 4), 6 + 4 * (prompt % 5)
    ImageDraw.Draw(image).ellipse((left, top, left + 28, top + 28), fill=colour)
    noise = np.random.default_rng(1000 * prompt + seed).integers(-3, 4, (64, 64, 3))
    return Image.fromarray((np.asarray(image).astype(int) + noise).clip(0, 255).astype(np.uint8))


def write_folder(folder: Path, prompts: int = 6, seeds: int = 4, kinds: int = 4, brightness: float = 1.0,
                 with_seeds: bool = True) -> Path:
    """Generations with a samples.jsonl."""
    folder.mkdir(parents=True)
    lines = []
    for p in range(prompts):
        for k in range(seeds):
            drawing(p, k, kinds, brightness).save(folder / f"{p:03d}-{k:02d}.png")
            row = {"prompt": f"a coloured disc number {p}", "image": f"{p:03d}-{k:02d}.png"}
            lines.append(json.dumps(row | ({"seed": k} if with_seeds else {})))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return folder
