"""`visalign generate`: prompts to pictures on disk, in a form that other verbs read."""

import json
from pathlib import Path

from visalign.config import Model
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.media import grid
from visalign.runs import write_atomically
from visalign.trainers.feedback import make_samples


def generate_to_folder(model: str, prompts: list[str], folder: Path, *, lora: Path | None = None, samples: int = 4,
                       steps: int = 28, guidance_scale: float = 4.5, seed: int = 0, precision: str = "auto") -> int:
    """Write PNGs, `grid.png` and `samples.jsonl` (prompt, image, seed); returns how many pictures."""
    if len(prompts) == 1 and prompts[0].startswith("@"):
        prompts = read_prompts(prompts[0][1:])
    prompts = list(dict.fromkeys(prompts))
    if (folder / "samples.jsonl").exists():
        raise UserError(f"output {folder}: already holds generated pictures; choose another folder with --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output {folder}: cannot be created ({error.strerror})") from None
    generator = load_generator(Model(source=model, precision=precision))
    if lora:
        generator.load_adapter(lora)
    made = make_samples(generator, prompts, samples, steps=steps, guidance_scale=guidance_scale, seed=seed,
                        label="generating")
    lines, rows = [], {}
    for number, sample in enumerate(made):
        name = f"{number:05d}.png"
        sample.image.save(folder / name)
        rows.setdefault(sample.prompt, []).append(sample.image)
        lines.append(json.dumps({"prompt": sample.prompt, "image": name, "seed": sample.seed}))
    grid(list(rows.items())).save(folder / "grid.png")
    write_atomically(folder / "samples.jsonl", ("\n".join(lines) + "\n").encode())
    return len(made)
