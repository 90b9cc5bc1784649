"""`--dry-run`: what a recipe would do, without loading any weights."""

from collections import Counter

from torch import nn

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import build_objective
from visalign.data.usable import FoundPairs
from visalign.generators.base import Generator
from visalign.generators.devices import pick_device, pick_dtype
from visalign.generators.locating import locate_model
from visalign.generators.sketching import empty_generator
from visalign.jobs.disk_estimate import cache_room, room
from visalign.jobs.train import check_training, completed, measured_on
from visalign.storage.files import size_in_words
from visalign.storage.yaml_files import dump_yaml
from visalign.trainers.cost import sample_passes
from visalign.trainers.guard import interval_of
from visalign.trainers.offline.sides import mixture_lines
from visalign.trainers.optim import MOMENTS


def describe_run(config: OfflineConfig | OnlineConfig) -> str:
    """Resolved settings, trainable parameters, batches, passes and a memory estimate. Raises UserError on mistakes."""
    config = completed(config)
    found = check_training(config)
    config = measured_on(config, found.prompts)
    objective = build_objective(config.objective, loop=config.loop)
    generator = empty_generator(locate_model(config.model), config.model)
    denoiser = generator.denoiser
    total = sum(p.numel() for p in denoiser.parameters())
    trainable = sum(p.numel() for p in denoiser.parameters() if p.requires_grad)
    device = pick_device(config.train.device)
    dtype = pick_dtype(config.model.precision, device)
    frozen_bytes = dtype.itemsize if device.type == "cuda" else 4
    copies = 2 if config.model.tuning == "full" and "reference" in objective.needs else 1
    held = (total - trainable) * frozen_bytes + trainable * (8 + MOMENTS[config.optim.name])
    held += (copies - 1) * total * frozen_bytes + (trainable * 4 if config.optim.ema_decay else 0)
    held += trainable * 4 if "old" in objective.needs else 0
    settings = config.model_dump(mode="json") | {"objective": {"name": config.objective["name"], **vars(objective)}}
    return "\n".join([
        dump_yaml(settings).rstrip(), "",
        f"device                {device}, arithmetic {str(dtype).removeprefix('torch.')}",
        f"denoiser parameters   {total / 1e6:,.2f} M, trainable {trainable / 1e6:,.3f} M ({config.model.tuning})",
        *_data(config, found), *_WORK[config.loop](config, objective), *_guard_work(config, objective),
        f"samples               {generator.shape}; latents {'x'.join(map(str, generator.latent_shape()))}"
        + (f", {generator.tokens():,} tokens" if generator.tokens() else ""),
        f"weights and optimiser {held / 2**30:.2f} GiB for the denoiser",
        f"frozen parts          {frozen_parts(generator) * frozen_bytes / 2**30:.2f} GiB for text encoders and VAE",
        *activations(config, generator, objective, dtype.itemsize),
        *_disk("cache", cache_room(config, generator, found)), *_disk("disk", room(config, generator)),
    ])


def _disk(what: str, sizes: dict[str, int]) -> list[str]:
    return [f"{what:<22}" + ", ".join(f"{size_in_words(size)} {name}" for name, size in sizes.items())] * bool(sizes)


def _data(config: OfflineConfig | OnlineConfig, found: FoundPairs) -> list[str]:
    """How much there is to learn from, by source, where it is known without a hub."""
    if not found.sizes:
        return []
    several = f" ({found.texts} with all captions)" * (found.texts > len(found.prompts))
    said = f"{found.pairs} pairs or captioned media of {len(found.prompts)} prompts{several}, those held out included"
    return [f"data                  {said}",
            *(f"                      {line}" for line in mixture_lines(config.data, found.sizes))]


def frozen_parts(generator: Generator) -> int:
    """Parameters of everything that is never trained."""
    return sum(p.numel() for module in generator.frozen_modules() for p in module.parameters())


def activations(config: OfflineConfig | OnlineConfig, generator: Generator, objective, bytes_each: int) -> list[str]:
    """An estimate for transformers with fused attention (Korthikanti et al. 2022, arXiv 2205.05198, without dropout).

    17 numbers per token, layer and unit of width; with checkpointing one, plus 17 for the layer being recomputed.
    """
    tokens = generator.tokens()
    if tokens is None:
        return ["activations           not estimated for U-Nets"]
    layers, width = depth_and_width(next(iter(generator.networks().values())))
    if not layers:
        return ["activations           not estimated for networks without repeated blocks"]
    together = config.train.batch_size * (2 if config.loop == "offline" and "rejected" in objective.needs else 1)
    kept = layers + 17 if config.model.gradient_checkpointing else 17 * layers
    size = together * (tokens + generator.prompt_tokens) * width * kept * bytes_each
    return [f"activations           about {size / 2**30:.2f} GiB for {together} samples at once"
            + ("" if config.model.gradient_checkpointing else ", less with model.gradient_checkpointing")]


def depth_and_width(network: nn.Module) -> tuple[int, int]:
    """Repeated blocks that tokens pass through, and the numbers of a token: what most of the blocks' layers take."""
    blocks = [block for part in network.children() if isinstance(part, nn.ModuleList) for block in part]
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    blocks = [block for block, size in zip(blocks, sizes, strict=True) if size > max(sizes) / 10]  # no embeddings
    widths = Counter(layer.in_features for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear))
    return len(blocks), max(widths, key=widths.__getitem__, default=0)


def _offline_work(config: OfflineConfig, objective) -> list[str]:
    train = config.train
    passes = "policy" + (" on chosen and rejected" if "rejected" in objective.needs else " on chosen")
    passes += ", reference without gradient" if "reference" in objective.needs else ""
    batch = train.batch_size * train.gradient_accumulation
    return [f"passes of a step      {passes}", f"optimiser steps       {train.steps}",
            f"effective batch       {batch} pairs a process ({train.batch_size} x {train.gradient_accumulation} "
            "accumulation), times the number of processes"]


def _online_work(config: OnlineConfig, objective) -> list[str]:
    """Passes are counted per sample; a pass with gradient costs about three."""
    rollout, train = config.rollout, config.train
    size = rollout.prompts_per_epoch * rollout.group_size
    drawn, learnt, frozen = sample_passes(config, objective)
    return [f"an epoch              {rollout.prompts_per_epoch} prompts x {rollout.group_size} = {size} samples, "
            f"{train.updates_per_epoch} optimiser steps, {train.epochs} epochs",
            f"passes of a sample    {drawn} to draw it, {learnt} with gradient and {frozen} without to learn from it"]


def _guard_work(config: OfflineConfig | OnlineConfig, objective) -> list[str]:
    guard = config.guard
    if guard.action == "off":
        return ["guard                 off"]
    return [f"guard                 {guard.action}, looks every {interval_of(config, objective)} steps"]


_WORK = {"offline": _offline_work, "online": _online_work}
