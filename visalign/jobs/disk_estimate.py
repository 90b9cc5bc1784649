"""An estimate of a run's disk use, so that a full disk is reported before the run rather than during it."""

import math
from pathlib import Path

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import build_objective
from visalign.data.prompts import count_prompts
from visalign.generators.base import Generator
from visalign.generators.ldm_export import DTYPES
from visalign.generators.locating import locate_model
from visalign.generators.sketching import empty_generator
from visalign.storage.files import check_space, size_in_words
from visalign.trainers.optim import MOMENTS


def check_room(config: OfflineConfig | OnlineConfig) -> None:
    """Raise UserError when the disk has too little room for a run; loads no weights."""
    needed = room(config, empty_generator(locate_model(config.model), config.model))
    folder = Path(config.output.folder).expanduser()
    there = sum(file.stat().st_size for file in (folder / "checkpoints").glob("*/*")) if folder.is_dir() else 0
    parts = ", ".join(f"{size_in_words(size)} {name}" for name, size in needed.items())
    check_space(f"output.folder {config.output.folder}", folder, sum(needed.values()) - there,
                f"{parts}; free some space, lower output.keep_checkpoints, or choose another output.folder")


def room(config: OfflineConfig | OnlineConfig, generator: Generator) -> dict[str, int]:
    """Bytes of a run by purpose; `generator` may be without weights."""
    named = list(generator.denoiser.parameters())
    learning = sum(p.numel() for p in named if p.requires_grad)
    whole = sum(p.numel() for p in named) + sum(p.numel() for m in generator.frozen_modules() for p in m.parameters())
    objective = build_objective(config.objective, loop=config.loop)
    each = 4 + MOMENTS[config.optim.name] + 4 * bool(config.optim.ema_decay) + 4 * ("old" in objective.needs)
    kept = _checkpoints(config) + 1  # the next is written before the oldest goes
    evaluation, shape = config.eval, generator.shape
    looks = 2 + (config.train.steps // evaluation.every if evaluation.every else 0)
    prompts = count_prompts(evaluation.prompts, evaluation.max_prompts)
    pixels = 3 * shape.height * shape.width * (shape.frames or 1)
    export = whole if config.model.tuning == "full" else learning
    best = 4 * learning * (config.guard.action == "rollback")
    one_file = whole * single_file_width(config) if config.model.tuning == "full" else 0
    return {"for checkpoints": math.ceil(kept * each * learning), "for the export": 4 * export + best + one_file,
            "for samples": looks * prompts * evaluation.samples_per_prompt * pixels}


def single_file_width(config: OfflineConfig | OnlineConfig) -> int:
    """Bytes a weight of the one file for user interfaces, 0 where none is wanted."""
    dtype = DTYPES.get(config.output.single_file)
    return dtype.itemsize if dtype else 0


def _checkpoints(config: OfflineConfig | OnlineConfig) -> int:
    """How many checkpoints a run keeps in the end."""
    every = config.output.checkpoint_every
    made = math.ceil(config.train.steps / every) if every else 1
    return min(made, config.output.keep_checkpoints) if config.output.keep_checkpoints else made
