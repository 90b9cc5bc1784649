"""`visalign generate`: prompts to pictures on disk, in a form that other verbs read."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from visalign.config import Model
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.base import Generator
from visalign.media import grid, read_image, to_bytes
from visalign.runs import write_atomically
from visalign.trainers.feedback import samples_at

GRID_ROWS = 100
"""Prompts in the overview; a taller picture helps nobody."""


def generate_to_folder(model: str, prompts: list[str], folder: Path, *, lora: Path | None = None, samples: int = 4,
                       steps: int = 28, guidance_scale: float = 4.5, seed: int = 0, precision: str = "auto") -> int:
    """Sample a model (with a LoRA) into a folder; see `write_generations`."""
    if len(prompts) == 1 and prompts[0].startswith("@"):
        prompts = read_prompts(prompts[0][1:])

    def load() -> Generator:
        generator = load_generator(Model(source=model, precision=precision))
        if lora:
            generator.load_adapter(lora)
        return generator

    return write_generations(load, prompts, folder, {"model": model, "lora": str(lora), "precision": precision},
                             samples=samples, steps=steps, guidance_scale=guidance_scale, seed=seed)


def write_generations(load: Callable[[], Generator], prompts: list[str], folder: Path, identity: dict, *, samples: int,
                      steps: int, guidance_scale: float, seed: int) -> int:
    """Write PNGs, `grid.png`, `settings.json` and `samples.jsonl` (prompt, image, seed); returns how many pictures.

    The same call continues where an earlier one was killed; `samples.jsonl` appears when all are there. identity: what
    makes the generator that `load` gives what it is. Raises UserError when the folder holds other generations.
    """
    prompts = list(dict.fromkeys(prompts))
    settings = identity | {"prompts": prompts, "samples": samples, "steps": steps, "guidance_scale": guidance_scale,
                           "seed": seed}
    file = folder / "settings.json"
    if (folder / "samples.jsonl").exists():
        raise UserError(f"output {folder}: already holds generated pictures; choose another folder with --output")
    if file.exists() and json.loads(file.read_text()) != settings:
        raise UserError(f"output {folder}: holds unfinished pictures of another command; finish that one, delete them, "
                        "or choose another folder with --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(settings).encode())
    except OSError as error:
        raise UserError(f"output {folder}: cannot be created ({error.strerror})") from None
    names = [f"{number:05d}.png" for number in range(len(prompts) * samples)]
    missing = [number for number, name in enumerate(names) if not (folder / name).exists()]
    for number, sample in samples_at(load(), prompts, samples, missing, steps=steps, guidance_scale=guidance_scale,
                                     seed=seed, label="generating"):
        write_atomically(folder / names[number], to_bytes(sample.image))
    rows: dict[str, list[Image.Image]] = {}
    for number, name in enumerate(names[:GRID_ROWS * samples]):
        rows.setdefault(prompts[number // samples], []).append(read_image(folder / name, "grid"))
    grid(list(rows.items())).save(folder / "grid.png")
    lines = [json.dumps({"prompt": prompts[number // samples], "image": name, "seed": seed * 1_000_003 + number})
             for number, name in enumerate(names)]
    write_atomically(folder / "samples.jsonl", ("\n".join(lines) + "\n").encode())
    return len(names)
