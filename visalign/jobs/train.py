"""One recipe from start to finish: load, prepare, measure, train, measure, export, report; offline and online alike."""

import importlib.util
import json
import time
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.fitting import RECIPE_OF, SIBLINGS
from visalign.config.load import build_objective
from visalign.data.prompts import read_prompts
from visalign.data.usable import FoundPairs
from visalign.errors import UserError
from visalign.evaluation.held_out import load_held_out
from visalign.generators import load_generator, locate_model
from visalign.generators.export.exporting import export
from visalign.generators.export.model_card import versions
from visalign.generators.files.locating import sampling_for
from visalign.generators.files.scheduler_files import load_scheduler
from visalign.generators.files.sketching import empty_generator, with_start
from visalign.generators.hardware.devices import check_speed, pick_device
from visalign.generators.hardware.quantization import check_quantizer
from visalign.jobs.disk_estimate import check_room
from visalign.jobs.memory_words import advised, settled
from visalign.jobs.training_setup import LOOPS
from visalign.objectives import REGISTRIES
from visalign.parallel.sharing import doing
from visalign.rewards import check_reward, check_sources_given
from visalign.storage.run_folder import RunFolder, write_atomically
from visalign.storage.yaml_files import read_mapping
from visalign.trainers.base import GeneratorTrainer
from visalign.trainers.best import check_keep_best
from visalign.trainers.cadence import Cadence
from visalign.trainers.checkpoint import check_loras, check_model
from visalign.trainers.guard import check_guard
from visalign.trainers.opening import opened_run
from visalign.trainers.optim import check_optimizer
from visalign.trainers.order import prompts_to_measure
from visalign.trainers.stopping import heard
from visalign.trainers.summary import VERDICT, Result, result_figures, summarise
from visalign.trainers.tracking import check_trackers, keep_results


def completed(config: OfflineConfig | OnlineConfig, resume: bool = False) -> OfflineConfig | OnlineConfig:
    """The settings with what the run that is resumed, or the model, says where the user does not. Raises UserError."""
    earlier = Path(config.output.folder).expanduser() / "config.yaml"
    known = (read_mapping(earlier, "run").get("eval") or {}) if resume and earlier.is_file() else {}
    told = {name: value if value is not None else known.get(name)
            for name in ("prompts", "steps", "guidance_scale") for value in [getattr(config.eval, name)]}
    if isinstance(told["prompts"], list):
        told["prompts"] = tuple(told["prompts"])
    config = config.model_copy(update={"model": with_start(config.model)})
    sampling = sampling_for(config.model, told["steps"], told["guidance_scale"])
    return with_evaluation(config, told | vars(sampling))


def with_evaluation(config: OfflineConfig | OnlineConfig, changes: dict) -> OfflineConfig | OnlineConfig:
    """The settings with other ones of `eval`."""
    return config.model_copy(update={"eval": config.eval.model_copy(update=changes)})


def measured_on(config: OfflineConfig | OnlineConfig, prompts: list[str]) -> OfflineConfig | OnlineConfig:
    """The settings with the prompts to measure on: as the user names them, or those that are held out of `prompts`.

    Unchanged where the prompts of the data are not known yet ([]). Raises UserError when none can be held out.
    """
    if config.eval.prompts is not None or not prompts:
        return config
    return with_evaluation(config, {"prompts": prompts_to_measure(prompts, *config.holdout)[:most_measured(config)]})


def most_measured(config: OfflineConfig | OnlineConfig) -> int | None:
    """The most prompts that are ever measured on together, None for no limit."""
    limits = [config.eval.max_prompts, config.guard.max_prompts]
    return None if None in limits else max(limits)


def measured_on_pairs(config: OfflineConfig, held_out: list) -> OfflineConfig:
    """As `measured_on`, once the pairs of the hub's set are known. Raises UserError when none is held out."""
    prompts = tuple(dict.fromkeys(pair.prompt for pair in held_out))
    if not prompts:
        raise UserError(f"eval.prompts: no pair of {config.data.named} is held out to measure on (data.holdout "
                        f"{config.data.holdout:g}); take a larger share, or name prompts with eval.prompts=FILE")
    return with_evaluation(config, {"prompts": prompts[:most_measured(config)]})


def check_training(config: OfflineConfig | OnlineConfig) -> FoundPairs:
    """Find every mistake that can be known before a model is loaded; what the data hold, where it is known.

    Raises UserError.
    """
    checkpoint = locate_model(config.model)
    family = checkpoint.family
    objective = build_objective(config.objective, loop=config.loop)
    if objective.process not in ("any", family.process_kind):
        fitting = ", ".join(sorted(name for name, each in REGISTRIES[config.loop].items()
                                   if each.process in ("any", family.process_kind)))
        sibling = SIBLINGS.get(config.objective["name"])
        same = f"the same method for it is {sibling}, as in the recipe {RECIPE_OF[sibling]}; else " if sibling else ""
        raise UserError(f"objective.name {config.objective['name']} is for {objective.process} models, but "
                        f"{config.model.source} ({family.pipeline_class}) is a {family.process_kind} model; "
                        f"{same}use one of {fitting}")
    load_scheduler(checkpoint)
    for reward in filter(None, (config.eval.reward, *config.eval.also)):
        check_reward(reward)
    held_out = load_held_out(config.eval, "cpu", family.modality)
    check_guard(config)
    check_keep_best(config, held_out.tools.rewards)
    check_optimizer(config.optim)
    check_packages(config)
    check_speed(config.model, family, pick_device(config.train.device))
    check_quantizer(config.model.quantization)
    if config.eval.prompts is not None:
        prompts = read_prompts(config.eval.prompts, config.eval.max_prompts)
        family.check_prompts(prompts, "eval.prompts")
        check_sources_given(held_out.tools.rewards, prompts, "eval.prompts")
    return LOOPS[config.loop].check(config, family)


def check_packages(config: OfflineConfig | OnlineConfig) -> None:
    """Raise UserError naming the command that installs what a setting needs."""
    check_trackers(config.output.trackers)
    if config.model.attention == "xformers" and importlib.util.find_spec("xformers") is None:
        raise UserError("model.attention xformers needs the package xformers: pip install 'visalign[xformers]'")


@heard()
def train(config: OfflineConfig | OnlineConfig, resume: bool = False) -> Result:
    """Run a recipe. Raises UserError for anything the user can fix, Stopped when a signal ends it; the run folder then
    holds all there was."""
    started = time.time()
    config = completed(config, resume)
    found = check_training(config)
    config = measured_on(config, found.prompts)
    empty = empty_generator(locate_model(config.model), config.model)
    check_room(config, found, empty)
    config = settled(config, empty, resume)
    with opened_run(config, resume) as (accelerator, run):
        return trained(config, accelerator, run, started)


def trained(config: OfflineConfig | OnlineConfig, accelerator: Accelerator, run: RunFolder, started: float) -> Result:
    """Load, train, measure and export in a run that is open; a sketch of the model has been made."""
    check_loras(run, config.model)
    with advised(config):
        generator = load_generator(config.model, accelerator.device, sketched=True)
    check_model(run, [generator.denoiser, *generator.frozen_modules()], f"model.source {config.model.source}")
    held_out = load_held_out(config.eval, str(accelerator.device), generator.modality)
    with advised(config):
        trainer, counts = LOOPS[config.loop].build(config, generator, run, accelerator)
    if config.eval.prompts is None:
        config = trainer.config = measured_on_pairs(config, trainer.held_out)
        run.keep_settings(config)
    with trainer.started(), advised(config):
        asking = config.goals.highest if config.goals else None
        cadence = Cadence(trainer, replace(held_out, settings=config.eval, asking=asking), started)
        ended = cadence.follow()
        result = trainer.engine.processes.told_by_first(
            lambda: summarise(run, started, held_out.proxy, cadence.guard.limits, ended, kept=cadence.kept))
        leave(trainer, result, counts)
    return result


def leave(trainer: GeneratorTrainer, result: Result, counts: dict[str, int]) -> None:
    """Write what a finished run leaves: the weights for other programs, its page and its verdict."""
    from visalign.reports.before_after import BEFORE_AFTER
    from visalign.reports.run import write_report

    run, config = trainer.run, trainer.config
    doing("exporting")
    with trainer.whole() as writes:
        if writes:
            export(trainer.generator, run.path / "export", config,
                   result_figures(result) | {"evidence": "; ".join(result.verdict.reasons)})
            write_report(run, config, result, versions(), counts)
            write_atomically(run.path / VERDICT, (json.dumps(result.verdict.as_dict(), indent=2) + "\n").encode())
            keep_results(trainer.accelerator, run, ("report.html", BEFORE_AFTER, VERDICT, "config.yaml"),
                         result_figures(result))
