"""One recipe from start to finish: load, prepare, measure, train, measure, export, report; offline and online alike."""

import importlib.util
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import build_objective
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.evaluation.held_out import check_same, load_held_out_rewards, measure, prompt_metrics_of, save_samples
from visalign.evaluators import Estimate, Verdict, VerdictLimits, mean_with_interval, verdict_of
from visalign.generators import load_generator, locate_model
from visalign.generators.export import export, versions
from visalign.generators.loading import load_scheduler, pick_device, pick_dtype, sampling_for
from visalign.jobs.disk_estimate import check_room
from visalign.jobs.training_setup import LOOPS
from visalign.objectives import REGISTRIES
from visalign.rewards import check_reward
from visalign.storage.files import full_disk_told
from visalign.storage.run_folder import RunFolder
from visalign.storage.yaml_files import read_mapping
from visalign.trainers.checkpoint import CONTINUE, check_model
from visalign.trainers.guard import Guard, check_guard
from visalign.trainers.optim import check_optimizer
from visalign.trainers.order import prompts_to_measure
from visalign.trainers.stopping import heard


@dataclass(frozen=True)
class Result:
    """Where a run lies and what it changed on held-out prompts (None where not measured).

    ended: what the guard did to it, in words, when it ended the run.
    """

    folder: Path
    reward_change: Estimate | None
    diversity_change: Estimate | None
    other_changes: dict[str, Estimate]
    verdict: Verdict
    implicit_accuracy: float | None
    seconds: float
    ended: str | None = None


def completed(config: OfflineConfig | OnlineConfig, resume: bool = False) -> OfflineConfig | OnlineConfig:
    """The settings with what the run that is resumed, or the model, says where the user does not. Raises UserError."""
    earlier = Path(config.output.folder).expanduser() / "config.yaml"
    known = (read_mapping(earlier, "run").get("eval") or {}) if resume and earlier.is_file() else {}
    told = {name: value if value is not None else known.get(name)
            for name in ("prompts", "steps", "guidance_scale") for value in [getattr(config.eval, name)]}
    if isinstance(told["prompts"], list):
        told["prompts"] = tuple(told["prompts"])
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
        raise UserError(f"eval.prompts: no pair of {config.data.path} is held out to measure on (data.holdout "
                        f"{config.data.holdout:g}); take a larger share, or name prompts with eval.prompts=FILE")
    return with_evaluation(config, {"prompts": prompts[:most_measured(config)]})


def check_training(config: OfflineConfig | OnlineConfig) -> list[str]:
    """Find every mistake that can be known before a model is loaded; the prompts of the data, where they are known.

    Raises UserError.
    """
    checkpoint = locate_model(config.model)
    family = checkpoint.family
    objective = build_objective(config.objective, loop=config.loop)
    if objective.process not in ("any", family.process_kind):
        fitting = ", ".join(sorted(name for name, each in REGISTRIES[config.loop].items()
                                   if each.process in ("any", family.process_kind)))
        raise UserError(f"objective.name {config.objective['name']} is for {objective.process} models, but "
                        f"{config.model.source} ({family.pipeline_class}) is a {family.process_kind} model; "
                        f"use one of {fitting}")
    load_scheduler(checkpoint)
    for reward in filter(None, (config.eval.reward, *config.eval.also)):
        check_reward(reward)
    load_held_out_rewards(config.eval, "cpu", family.modality)
    check_guard(config)
    check_optimizer(config.optim)
    check_packages(config)
    pick_device(config.train.device)
    if config.eval.prompts is not None:
        family.check_prompts(read_prompts(config.eval.prompts, config.eval.max_prompts), "eval.prompts")
    return LOOPS[config.loop].check(config, family)


def check_packages(config: OfflineConfig | OnlineConfig) -> None:
    """Raise UserError naming the command that installs what a setting needs."""
    needed = [("wandb", "output.trackers wandb", "trackers")] if "wandb" in config.output.trackers else []
    if config.model.attention == "xformers":
        needed.append(("xformers", "model.attention xformers", "xformers"))
    for package, setting, extra in needed:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{setting} needs the package {package}: pip install 'visalign[{extra}]'")


def open_accelerator(config: OfflineConfig | OnlineConfig) -> Accelerator:
    device = pick_device(config.train.device)
    compute_dtype = pick_dtype(config.model.precision, device)
    # SD3's last block discards the text stream, so part of an adapter there never gets a gradient
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=3))  # the others wait while one process samples
    return Accelerator(cpu=device.type == "cpu", kwargs_handlers=[unused, patience],
                       mixed_precision="fp16" if compute_dtype == torch.float16 else "no",
                       log_with=list(config.output.trackers) or None, project_dir=config.output.folder)


@heard()
def train(config: OfflineConfig | OnlineConfig, resume: bool = False) -> Result:
    """Run a recipe. Raises UserError for anything the user can mend, Stopped when a signal ends it; the run folder then
    holds all there was."""
    started = time.time()
    config = completed(config, resume)
    config = measured_on(config, check_training(config))
    check_room(config)
    accelerator = open_accelerator(config)
    run = RunFolder(config.output.folder, config, resume, accelerator.is_main_process)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("logs")
    generator = load_generator(config.model, accelerator.device)
    check_model(run, [generator.denoiser, *generator.frozen_modules()], f"model.source {config.model.source}")
    judges = load_held_out_rewards(config.eval, str(accelerator.device), generator.modality)
    trainer, counts = LOOPS[config.loop].build(config, generator, run, accelerator)
    if config.eval.prompts is None:
        config = measured_on_pairs(config, trainer.held_out)
        run.keep_settings(config)
    guard = Guard(config, trainer.objective, generator, judges, run, trainer.state, accelerator)
    trainer.checkpoints.resume()
    run.log({"kind": "start", "step": trainer.state.step, "processes": accelerator.num_processes})
    done = {row["folder"] for row in run.metrics() if row["kind"] == "held_out"}

    def evaluate(step: int, returned_to: int | None = None) -> None:
        folder = f"step-{step:08d}" + ("" if returned_to is None else "-returned")
        if accelerator.is_main_process and folder not in done:
            done.add(folder)
            with generator.measuring(), trainer.state.averaged():
                held, samples = measure(generator, config.eval, judges, f"samples, step {step}")
                first = next((row for row in run.metrics() if row["kind"] == "held_out"), None)
                check_same(prompt_metrics_of(first) if first else held, held, "eval")
                save_samples(samples, run.path / "samples" / folder)
                run.log({"kind": "held_out", "step": step, "folder": folder, **held.as_dict(),
                         **trainer.held_out_metrics(), "seconds_so_far": time.time() - started})
        accelerator.wait_for_everyone()

    def on_step(step: int) -> bool:
        """What is due after a step; whether the guard ends the run."""
        if step == 0 or (config.eval.every and step % config.eval.every == 0 and step < config.train.steps):
            evaluate(step)
        return guard.check(step)

    with trainer.checkpoints.kept_on_stop(), full_disk_told(f"run {run.path}", run.path, CONTINUE):
        ended = back = None
        if on_step(trainer.state.step) or trainer.fit(on_step):
            trainer.checkpoints.save_if_new()
            back = guard.roll_back()
            ended = f"the guard stopped the run at step {trainer.state.step}" + (
                "" if back is None else f" and returned to step {back}")
        evaluate(trainer.state.step, back)
        with trainer.state.averaged():
            result = summarise(run, started, judges.proxy_name, guard.limits, ended)
            if accelerator.is_main_process:
                export(generator, run.path / "export", config,
                       result_figures(result) | {"evidence": "; ".join(result.verdict.reasons)})
        if accelerator.is_main_process:
            from visalign.reports.run import write_report

            write_report(run, config, result, versions(), counts)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


def summarise(run: RunFolder, started: float, proxy: str | None, limits: VerdictLimits, ended: str | None) -> Result:
    """Change from before to after per held-out prompt, with bootstrap intervals, and the verdict."""
    rows = [row for row in run.metrics() if row["kind"] == "held_out"]
    before, after = (prompt_metrics_of(row) for row in (rows[0], rows[-1]))

    def change(metric: str) -> Estimate | None:
        if metric not in before.values:
            return None
        return mean_with_interval([b - a for a, b in zip(before.values[metric], after.values[metric], strict=True)])

    others = {name: change(f"reward/{name}") for name in before.names("reward") if name != proxy}
    return Result(run.path, change(f"reward/{proxy}"), change("diversity/distance"), others,
                  verdict_of(before, after, proxy, limits), rows[-1].get("held_out/implicit_accuracy"),
                  time.time() - started, ended)


def result_figures(result: Result) -> dict[str, str]:
    """The numbers that matter, as text."""
    texts = {"reward change": result.reward_change, "diversity change": result.diversity_change}
    texts |= {f"{name} change": change for name, change in result.other_changes.items()}
    numbers = {name: f"{value} (95 % interval)" for name, value in texts.items() if value is not None}
    numbers["verdict"] = result.verdict.word
    if result.ended:
        numbers["ended early"] = result.ended
    if result.implicit_accuracy is not None:
        numbers["implicit accuracy on held-out pairs"] = f"{result.implicit_accuracy:.3f}"
    return numbers

