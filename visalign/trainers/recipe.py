"""One recipe from start to finish: load, prepare pairs, measure, train, measure, export, report."""

import contextlib
import importlib.util
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from visalign.config import Config
from visalign.configfile import build_objective
from visalign.data.preferences import Counts, Pair, check_source, read_pairs
from visalign.data.prompts import read_prompts
from visalign.data.tables import read_saved_pairs, save_pairs
from visalign.errors import UserError
from visalign.evaluators import Estimate, mean_with_interval
from visalign.generators import Generator, inspect_checkpoint, load_generator
from visalign.generators.export import export, versions
from visalign.generators.loading import pick_device, pick_dtype
from visalign.objectives import OBJECTIVES
from visalign.rewards import ClipScore, check_reward, load_reward
from visalign.runs import RunFolder
from visalign.trainers.cache import EncodingCache
from visalign.trainers.evaluation import measure
from visalign.trainers.feedback import feedback_pairs, judged
from visalign.trainers.offline import OfflineTrainer
from visalign.trainers.optim import check_optimizer
from visalign.trainers.order import split_by_prompt
from visalign.trainers.pairs import encode_pairs, standardised


@dataclass(frozen=True)
class Result:
    """Where a run lies and what it changed on held-out prompts (None where not measured)."""

    folder: Path
    reward_change: Estimate | None
    variety_change: Estimate | None
    implicit_accuracy: float | None
    seconds: float


def check(config: Config) -> None:
    """Find every mistake that can be known before a model is loaded. Raises UserError."""
    family = inspect_checkpoint(config.model).family
    objective = build_objective(config.objective)
    if objective.process not in ("any", family.process_kind):
        fitting = ", ".join(sorted(name for name, each in OBJECTIVES.items() if each.process in ("any",
                                                                                           family.process_kind)))
        raise UserError(f"objective.name {config.objective['name']} is for {objective.process} models, but "
                        f"{config.model.source} ({family.pipeline_class}) is a {family.process_kind} model; "
                        f"use one of {fitting}")
    feedback = config.data.feedback
    for reward in filter(None, (config.data.score_with, config.eval.reward, feedback and feedback.reward)):
        check_reward(reward)
    if config.eval.features:
        load_features(config.eval.features)
    check_optimizer(config.optim)
    check_packages(config)
    pick_device(config.train.device)
    read_prompts(config.eval.prompts)
    if feedback:
        read_prompts(feedback.prompts)
    else:
        check_source(config.data)


def load_features(source: str, device: str = "cpu") -> ClipScore:
    """What measures variety. Raises UserError when `source` is no open_clip model."""
    features = load_reward(source, device)
    if not isinstance(features, ClipScore):
        raise UserError(f"eval.features {source}: is no open_clip model; use tiny-clip, an open_clip folder, or "
                        "clip:ARCHITECTURE/TAG")
    return features


def check_packages(config: Config) -> None:
    """Raise UserError naming the command that installs what a setting needs."""
    needed = [("wandb", "output.trackers wandb", "trackers")] if "wandb" in config.output.trackers else []
    if config.model.attention == "xformers":
        needed.append(("xformers", "model.attention xformers", "xformers"))
    for package, setting, extra in needed:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{setting} needs the package {package}: pip install 'visalign[{extra}]'")


def train(config: Config, resume: bool = False) -> Result:
    """Run a recipe. Raises UserError for anything the user can mend; the run folder then holds all there was."""
    started = time.time()
    check(config)
    device = pick_device(config.train.device)
    compute_dtype = pick_dtype(config.model.precision, device)
    # SD3's last block discards the text stream, so part of an adapter there never gets a gradient
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=3))  # the others wait while one process samples
    accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[unused, patience],
                              mixed_precision="fp16" if compute_dtype == torch.float16 else "no",
                              log_with=list(config.output.trackers) or None, project_dir=config.output.folder)
    run = RunFolder(config.output.folder, config, resume, accelerator.is_main_process)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("logs")
    generator = load_generator(config.model, accelerator.device)
    reward = load_reward(config.eval.reward, str(accelerator.device)) if config.eval.reward else None
    features = load_features(config.eval.features, str(accelerator.device)) if config.eval.features else None

    def evaluate(step: int) -> None:
        if accelerator.is_main_process and step not in done:
            folder = run.path / "samples" / f"step-{step:08d}"
            with generator.measuring():
                held = measure(generator, config.eval, step, folder, reward, features)
                run.log({**held.row(), **trainer_metrics(), "seconds_so_far": time.time() - started})
        accelerator.wait_for_everyone()

    cache = EncodingCache(config.data.cache, generator)
    pairs = prepare_pairs(config, generator, run, accelerator)
    items = encode_pairs(pairs, cache, accelerator)
    objective = build_objective(config.objective)
    if "rewards" in objective.needs:
        items = standardised(items, objective.standardise)
    train_items, held_out = split_by_prompt(items, config.data.holdout)
    trainer = OfflineTrainer(config, generator, train_items, held_out, cache, run, accelerator)
    trainer_metrics = trainer.held_out_metrics
    trainer.resume()
    run.log({"kind": "start", "step": trainer.state.step, "processes": accelerator.num_processes})
    done = {row["step"] for row in run.metrics() if row["kind"] == "held_out"}

    def on_step(step: int) -> None:
        if config.eval.every and step % config.eval.every == 0 and step < config.train.steps:
            with averaged_weights(trainer):
                evaluate(step)

    evaluate(0)
    trainer.fit(on_step)
    with averaged_weights(trainer):
        evaluate(config.train.steps)
        result = summarise(run, started)
        if accelerator.is_main_process:
            export(generator, run.path / "export", config, figures(result))
    if accelerator.is_main_process:
        from visalign.pages.run import write_report

        write_report(run, config, result, versions(), counts_of(train_items, held_out))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


def prepare_pairs(config: Config, generator: Generator, run: RunFolder, accelerator: Accelerator):
    """The run's pairs as an iterable: read from the user's file, or made once and kept in the run's folder."""
    data = config.data
    if data.feedback:
        file = run.path / "pairs.parquet"
        if accelerator.is_main_process and not file.exists():
            save_pairs(feedback_pairs(generator, data.feedback, load_reward, config.train.seed), file)
        accelerator.wait_for_everyone()
        return read_saved_pairs(file)
    pairs = read_pairs(data, Counts())
    if data.score_with:
        pairs = judged(pairs, load_reward(data.score_with, str(accelerator.device)), data.rerank)
    return pairs


@contextlib.contextmanager
def averaged_weights(trainer: OfflineTrainer):
    """Within: the generator holds the moving average, when the run keeps one."""
    if trainer.state.ema is None:
        yield
        return
    parameters = [p for _, p in trainer.state.parameters]
    trainer.state.ema.store(parameters)
    trainer.state.ema.copy_to(parameters)
    try:
        yield
    finally:
        trainer.state.ema.restore(parameters)


def counts_of(train_items, held_out) -> dict[str, int]:
    return {"training pairs": len(train_items), "held-out pairs": len(held_out)}


def summarise(run: RunFolder, started: float) -> Result:
    """Change from before to after per held-out prompt, with bootstrap intervals."""
    rows = [row for row in run.metrics() if row["kind"] == "held_out"]
    before, after = rows[0], rows[-1]

    def change(name: str) -> Estimate | None:
        differences = [b - a for a, b in zip(before[name], after[name], strict=True)]
        return mean_with_interval(differences) if differences else None

    return Result(run.path, change("reward"), change("variety"), after.get("held_out/implicit_accuracy"),
                  time.time() - started)


def figures(result: Result) -> dict[str, str]:
    """The numbers that matter, as text."""
    texts = {"reward change": result.reward_change, "variety change": result.variety_change}
    numbers = {name: f"{value} (95 % interval)" for name, value in texts.items() if value is not None}
    if result.implicit_accuracy is not None:
        numbers["implicit accuracy on held-out pairs"] = f"{result.implicit_accuracy:.3f}"
    return numbers


__all__ = ["Pair", "Result", "check", "train"]
