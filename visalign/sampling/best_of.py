"""Best of N: draw N candidates of every image and keep the one with the highest reward. The baseline to beat.

The reward that chooses must not be the one reported: its mean rises with N even for pure noise.
"""

import json
from pathlib import Path

import torch
from tqdm import tqdm

from visalign.config import ModelSettings
from visalign.data.generations import find_generations
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.generators import locate_model
from visalign.media.source_images import sheet_row
from visalign.media.video_files import save_sheet
from visalign.rewards import finite_scores, for_modality, load_reward
from visalign.sampling.folder import generate_to_folder
from visalign.storage.files import copy_atomically, write_atomically, written


def best_of_to_folder(model: ModelSettings, prompts: list[str], folder: Path, *, best_of: int, reward: str,
                      samples: int,
                      device: str = "cpu", **options) -> int:
    """As `generate_to_folder`, each image the best of `best_of`; all candidates stay in `candidates/`.

    `samples.jsonl` also says each image's reward and the mean of its candidates' rewards. The same command with
    another reward chooses anew among them. Raises UserError when the folder holds candidates of other settings.
    """
    if len(prompts) == 1 and prompts[0].startswith("@"):
        prompts = read_prompts(prompts[0][1:])
    reward_model = for_modality(load_reward(reward, device), locate_model(model).family.modality)
    candidates, started = folder / "candidates", folder / "best_of.json"
    settings = {"model": model.model_dump(mode="json"), "prompts": prompts, "samples": samples, "best_of": best_of,
                **{name: str(value) for name, value in options.items()}}
    if started.exists() and written(started) != settings:
        raise UserError(f"output {folder}: holds the candidates of another command; choose another folder with "
                        "--out")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(started, json.dumps(settings).encode())
    if not (candidates / "samples.jsonl").exists():
        generate_to_folder(model, prompts, candidates, samples=samples * best_of, device=device, **options)
    rows = [json.loads(line) for line in (candidates / "samples.jsonl").read_text().splitlines()]
    entries = find_generations(candidates)
    kept, sheet = [], {}
    for first in tqdm(range(0, len(rows), best_of), desc=f"best of {best_of}", unit="sample"):
        group = rows[first:first + best_of]
        drawn = [entry.sample() for entry in entries[first:first + best_of]]
        scores = finite_scores(reward_model, drawn)
        best = int(torch.argmax(scores))
        source = candidates / group[best]["file"]
        name = f"{first // best_of:05d}{'' if source.is_dir() else source.suffix}"
        copy_atomically(source, folder / name)
        sheet.setdefault(entries[first].group, []).append(drawn[best])
        own = {key: f"candidates/{value}" if key == "mask" else [f"candidates/{each}" for each in value]
               for key, value in group[best].items() if key in ("mask", "sources")}
        kept.append(group[best] | own | {"file": name, "candidates": best_of, "chosen_by": reward_model.name,
                                   "reward": scores[best].item(), "candidates_mean": scores.mean().item()})
    save_sheet([sheet_row(samples) for samples in sheet.values()][:100], folder / "grid.png")
    write_atomically(folder / "samples.jsonl", "".join(json.dumps(row) + "\n" for row in kept).encode())
    return len(kept)
