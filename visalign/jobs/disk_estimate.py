"""An estimate of a run's disk use, so that a full disk is reported before the run rather than during it."""

import math
from pathlib import Path

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import build_objective
from visalign.data.prompts import count_prompts
from visalign.data.usable import FoundPairs
from visalign.generators.base import Generator
from visalign.generators.encoding_size import numbers_of_latents, numbers_of_prompt
from visalign.generators.export.ldm import DTYPES
from visalign.generators.hardware.devices import pick_device, pick_dtype
from visalign.sampling.encoding_cache import stored_as
from visalign.storage.files import check_space, size_in_words
from visalign.trainers.optim import MOMENTS


def check_room(config: OfflineConfig | OnlineConfig, found: FoundPairs, generator: Generator) -> None:
    """Raise UserError when the disk has too little room for a run of these data; `generator` may be without weights."""
    check_cache_room(config, generator, found)
    needed = room(config, generator)
    folder = Path(config.output.folder).expanduser()
    there = sum(file.stat().st_size for file in (folder / "checkpoints").glob("*/*")) if folder.is_dir() else 0
    parts = ", ".join(f"{size_in_words(size)} {name}" for name, size in needed.items())
    check_space(f"output.folder {config.output.folder}", folder, sum(needed.values()) - there,
                f"{parts}; free some space, lower output.keep_checkpoints, or choose another output.folder")


def check_cache_room(config: OfflineConfig | OnlineConfig, generator: Generator, found: FoundPairs) -> None:
    """Raise UserError when the disk has too little room for what has to be encoded.

    What the folder holds counts as if it were this run's: encodings that are there already are not refused.
    """
    where, needed = cache_of(config), cache_room(config, generator, found)
    folder = Path(where[1]).expanduser()
    there = sum(file.stat().st_size for file in folder.glob("shard-*")) if folder.is_dir() else 0
    parts = ", ".join(f"{size_in_words(size)} {name}" for name, size in needed.items())
    check_space(" ".join(where), folder, sum(needed.values()) - there,
                f"{parts}; free some space, or choose another {where[0]}")


def cache_of(config: OfflineConfig | OnlineConfig) -> tuple[str, str]:
    """The setting that names the folder of encodings, and the folder."""
    return ("rollout.cache", config.rollout.cache) if config.loop == "online" else ("data.cache", config.data.cache)


def cache_room(config: OfflineConfig | OnlineConfig, generator: Generator, found: FoundPairs) -> dict[str, int]:
    """Bytes of encodings by kind, as if every image or video were another; nothing of data that are not known yet."""
    dtype = pick_dtype(config.model.precision, pick_device(config.train.device))
    if config.loop == "online":
        stored, media, prompts = stored_as("auto", dtype), 0, _drawn_prompts(config, len(found.prompts))
    else:
        stored, prompts = stored_as(config.data.cache_dtype, dtype), max(found.texts, len(found.prompts))
        media = found.pairs * (2 if "rejected" in build_objective(config.objective).needs else 1)
    width = 2 if stored == "bf16" else 4
    sizes = {f"for latents of {media:,} {generator.modality}s": media * numbers_of_latents(generator) * width,
             f"for embeddings of {prompts:,} prompts": prompts * numbers_of_prompt(generator) * width}
    return {name: size for name, size in sizes.items() if size}


def _drawn_prompts(config: OnlineConfig, prompts: int) -> int:
    """How many of the prompts an online run gets to."""
    return min(prompts, config.train.epochs * config.rollout.prompts_per_epoch)


def room(config: OfflineConfig | OnlineConfig, generator: Generator) -> dict[str, int]:
    """Bytes of a run by purpose; `generator` may be without weights."""
    named = list(generator.denoiser.parameters())
    learning = sum(p.numel() for p in named if p.requires_grad)
    whole = sum(p.numel() for p in named) + sum(p.numel() for m in generator.frozen_modules() for p in m.parameters())
    objective = build_objective(config.objective, loop=config.loop)
    each = 4 + MOMENTS[config.optim.name] + 4 * bool(config.optim.ema_decay)
    each += 4 * len({"old", "sampler"} & objective.needs)
    each += 4 * config.data.selves.most(config.train.steps) if "own" in objective.needs else 0
    kept = _checkpoints(config) + 1  # the next is written before the oldest goes
    evaluation, shape = config.eval, generator.shape
    looks = 2 + (config.train.steps // evaluation.every if evaluation.every else 0)
    prompts = count_prompts(evaluation.prompts, evaluation.max_prompts)
    pixels = 3 * shape.height * shape.width * (shape.frames or 1)
    export = whole if config.model.tuning == "full" else learning
    best = 4 * learning * (config.guard.action == "rollback" or bool(evaluation.keep_best))
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
