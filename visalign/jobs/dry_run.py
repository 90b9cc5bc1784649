"""`--dry-run`: what a recipe would do, without loading any weights."""

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import build_advantage, build_objective
from visalign.data.bucket_counts import bucket_lines
from visalign.data.usable import FoundPairs
from visalign.generators.base import Generator
from visalign.generators.bucket_sizes import buckets_of
from visalign.generators.hardware.weightless import Weightless
from visalign.jobs.cards import find_card
from visalign.jobs.disk_estimate import cache_room, room
from visalign.jobs.memory_sizes import PassSizes
from visalign.jobs.memory_words import fitted, memory_table
from visalign.jobs.offline_checks import images_by_size
from visalign.jobs.train import check_training, completed, measured_on
from visalign.parallel.opening import check_configuration
from visalign.storage.files import size_in_words
from visalign.storage.yaml_files import dump_yaml
from visalign.trainers.cost import own_passes, passes_of_update, sample_passes
from visalign.trainers.guard import interval_of
from visalign.trainers.offline.sides import mixture_lines
from visalign.trainers.opening import check_sharded


def describe_run(config: OfflineConfig | OnlineConfig, planned: float | None = None) -> str:
    """Resolved settings, trainable parameters, batches, passes and memory. Raises UserError on mistakes.

    planned: GiB of a GPU that need not be here.
    """
    check_configuration()
    check_sharded(config)
    config = completed(config)
    found = check_training(config)
    config = measured_on(config, found.prompts)
    objective = build_objective(config.objective, loop=config.loop)
    card = find_card(config.train.device, planned)
    sizes = PassSizes(Weightless(config.model, card.device))
    config, said = fitted(config, sizes, card)
    generator, dtype = sizes.model.generator, sizes.model.compute_dtype
    named = list(generator.denoiser.parameters())
    total, trainable = sum(p.numel() for p in named), sum(p.numel() for p in named if p.requires_grad)
    settings = config.model_dump(mode="json") | {"objective": {"name": config.objective["name"], **vars(objective)}}
    return "\n".join([
        dump_yaml(settings).rstrip(), "",
        f"device                {card.device.type}, arithmetic {str(dtype).removeprefix('torch.')}",
        f"denoiser parameters   {total / 1e6:,.2f} M, trainable {trainable / 1e6:,.3f} M ({config.model.tuning})",
        *_data(config, found), *_WORK[config.loop](config, objective), *_guard_work(config, objective),
        f"samples               {generator.shape}; latents {'x'.join(map(str, generator.latent_shape()))}"
        + (f", {generator.tokens():,} tokens" if generator.tokens() else ""),
        *_buckets(config, generator),
        *_disk("cache", cache_room(config, generator, found)), *_disk("disk", room(config, generator)),
        "", *memory_table(config, sizes, card), *said,
    ])


def _disk(what: str, sizes: dict[str, int]) -> list[str]:
    return [f"{what:<22}" + ", ".join(f"{size_in_words(size)} {name}" for name, size in sizes.items())] * bool(sizes)


def _data(config: OfflineConfig | OnlineConfig, found: FoundPairs) -> list[str]:
    """How much there is to learn from, by source, where it is known without a hub."""
    if not found.sizes:
        return []
    goals = " and goals" if config.goals else ""
    several = f" ({found.texts} with all captions{goals})" * (found.texts > len(found.prompts))
    said = f"{found.pairs} pairs or captioned media of {len(found.prompts)} prompts{several}, those held out included"
    return [f"data                  {said}",
            *(f"                      {line}" for line in mixture_lines(config.data, found.sizes))]


def _buckets(config: OfflineConfig | OnlineConfig, generator: Generator) -> list[str]:
    """The sizes at which images are learnt, and how many each gets where they are at hand."""
    buckets = buckets_of(config.data, generator) if config.loop == "offline" else None
    return [] if buckets is None else bucket_lines(images_by_size(config), buckets)


def _offline_work(config: OfflineConfig, objective) -> list[str]:
    train = config.train
    sides = " and ".join(objective.sides) if len(objective.sides) > 1 else "each sample" if (
        "desirable" in objective.needs) else "chosen"
    passes = f"policy on {sides}"
    states, own = objective.passes.with_gradient, objective.passes.without - ("reference" in objective.needs)
    passes += f" at {states} states of each" * (states > 1)
    passes += ", reference without gradient" if "reference" in objective.needs else ""
    passes += f", {own} more without gradient" * (own > 0)
    drawn = own_passes(config, objective)
    passes += f", and {drawn} for each prompt and earlier self to draw its sample" * (drawn > 0)
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
            f"passes of a sample    {drawn} to draw it, {learnt} with gradient and {frozen} without to learn from it",
            *([f"passes of an update   {passes_of_update(config):.3g} over its samples in the mean: one in "
               f"{build_advantage(config.advantage).every} measures each reward's gradient"]
              if passes_of_update(config) > 1 else [])]


def _guard_work(config: OfflineConfig | OnlineConfig, objective) -> list[str]:
    guard = config.guard
    if guard.action == "off":
        return ["guard                 off"]
    return [f"guard                 {guard.action}, looks every {interval_of(config, objective)} steps"]


_WORK = {"offline": _offline_work, "online": _online_work}
