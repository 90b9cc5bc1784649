"""One recipe from start to finish: load, prepare, measure, train, measure, export, report; offline and online alike."""

import importlib.util
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from visalign.config import Config, OnlineConfig
from visalign.configfile import build_objective
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.evaluators import Estimate, mean_with_interval
from visalign.generators import inspect_checkpoint, load_generator
from visalign.generators.export import export, versions
from visalign.generators.loading import pick_device, pick_dtype
from visalign.objectives import REGISTRIES
from visalign.rewards import ClipScore, check_reward, load_reward
from visalign.runs import RunFolder
from visalign.trainers.evaluation import measure
from visalign.trainers.optim import check_optimizer
from visalign.trainers.setup import LOOPS


@dataclass(frozen=True)
class Result:
    """Where a run lies and what it changed on held-out prompts (None where not measured)."""

    folder: Path
    reward_change: Estimate | None
    variety_change: Estimate | None
    other_changes: dict[str, Estimate]
    implicit_accuracy: float | None
    seconds: float


def check(config: Config | OnlineConfig) -> None:
    """Find every mistake that can be known before a model is loaded. Raises UserError."""
    family = inspect_checkpoint(config.model).family
    objective = build_objective(config.objective, loop=config.loop)
    if objective.process not in ("any", family.process_kind):
        fitting = ", ".join(sorted(name for name, each in REGISTRIES[config.loop].items()
                                   if each.process in ("any", family.process_kind)))
        raise UserError(f"objective.name {config.objective['name']} is for {objective.process} models, but "
                        f"{config.model.source} ({family.pipeline_class}) is a {family.process_kind} model; "
                        f"use one of {fitting}")
    for reward in filter(None, (config.eval.reward, *config.eval.also)):
        check_reward(reward)
    if config.eval.features:
        load_features(config.eval.features)
    check_optimizer(config.optim)
    check_packages(config)
    pick_device(config.train.device)
    read_prompts(config.eval.prompts)
    LOOPS[config.loop].check(config, family)


def load_features(source: str, device: str = "cpu") -> ClipScore:
    """What measures variety. Raises UserError when `source` is no open_clip model."""
    features = load_reward(source, device)
    if not isinstance(features, ClipScore):
        raise UserError(f"eval.features {source}: is no open_clip model; use tiny-clip, an open_clip folder, or "
                        "clip:ARCHITECTURE/TAG")
    return features


def check_packages(config: Config | OnlineConfig) -> None:
    """Raise UserError naming the command that installs what a setting needs."""
    needed = [("wandb", "output.trackers wandb", "trackers")] if "wandb" in config.output.trackers else []
    if config.model.attention == "xformers":
        needed.append(("xformers", "model.attention xformers", "xformers"))
    for package, setting, extra in needed:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{setting} needs the package {package}: pip install 'visalign[{extra}]'")


def open_accelerator(config: Config | OnlineConfig) -> Accelerator:
    device = pick_device(config.train.device)
    compute_dtype = pick_dtype(config.model.precision, device)
    # SD3's last block discards the text stream, so part of an adapter there never gets a gradient
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=3))  # the others wait while one process samples
    return Accelerator(cpu=device.type == "cpu", kwargs_handlers=[unused, patience],
                       mixed_precision="fp16" if compute_dtype == torch.float16 else "no",
                       log_with=list(config.output.trackers) or None, project_dir=config.output.folder)


def train(config: Config | OnlineConfig, resume: bool = False) -> Result:
    """Run a recipe. Raises UserError for anything the user can mend; the run folder then holds all there was."""
    started = time.time()
    check(config)
    accelerator = open_accelerator(config)
    run = RunFolder(config.output.folder, config, resume, accelerator.is_main_process)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("logs")
    generator = load_generator(config.model, accelerator.device)
    rewards = [load_reward(spec, str(accelerator.device)) for spec in (config.eval.reward, *config.eval.also) if spec]
    reward, others = (rewards[0], rewards[1:]) if config.eval.reward else (None, rewards)
    features = load_features(config.eval.features, str(accelerator.device)) if config.eval.features else None

    def evaluate(step: int) -> None:
        if accelerator.is_main_process and step not in done:
            folder = run.path / "samples" / f"step-{step:08d}"
            with generator.measuring():
                held = measure(generator, config.eval, step, folder, reward, features, others)
                run.log({**held.row(), **trainer.held_out_metrics(), "seconds_so_far": time.time() - started})
        accelerator.wait_for_everyone()

    trainer, counts = LOOPS[config.loop].build(config, generator, run, accelerator)
    trainer.checkpoints.resume()
    run.log({"kind": "start", "step": trainer.state.step, "processes": accelerator.num_processes})
    done = {row["step"] for row in run.metrics() if row["kind"] == "held_out"}

    def on_step(step: int) -> None:
        if config.eval.every and step % config.eval.every == 0 and step < config.train.steps:
            with trainer.state.averaged():
                evaluate(step)

    evaluate(0)
    trainer.fit(on_step)
    with trainer.state.averaged():
        evaluate(config.train.steps)
        result = summarise(run, started)
        if accelerator.is_main_process:
            export(generator, run.path / "export", config, figures(result))
    if accelerator.is_main_process:
        from visalign.pages.run import write_report

        write_report(run, config, result, versions(), counts)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


def summarise(run: RunFolder, started: float) -> Result:
    """Change from before to after per held-out prompt, with bootstrap intervals."""
    rows = [row for row in run.metrics() if row["kind"] == "held_out"]
    before, after = rows[0], rows[-1]

    def change(name: str) -> Estimate | None:
        differences = [b - a for a, b in zip(before[name], after[name], strict=True)]
        return mean_with_interval(differences) if differences else None

    others = {name: mean_with_interval([b - a for a, b in zip(values, after["others"][name], strict=True)])
              for name, values in before["others"].items()}
    return Result(run.path, change("reward"), change("variety"), others, after.get("held_out/implicit_accuracy"),
                  time.time() - started)


def figures(result: Result) -> dict[str, str]:
    """The numbers that matter, as text."""
    texts = {"reward change": result.reward_change, "variety change": result.variety_change}
    texts |= {f"{name} change": change for name, change in result.other_changes.items()}
    numbers = {name: f"{value} (95 % interval)" for name, value in texts.items() if value is not None}
    if result.implicit_accuracy is not None:
        numbers["implicit accuracy on held-out pairs"] = f"{result.implicit_accuracy:.3f}"
    return numbers

