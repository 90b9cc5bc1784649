"""One language run from start to finish: check, load, prepare, measure, train, measure, export, report."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from visalign.config import LanguageConfig, LanguageSettings, TextFeedbackSettings
from visalign.config.language_feedback import PersuasionSettings
from visalign.config.load import build_objective
from visalign.data.persuasion import read_disputed
from visalign.data.prompts import read_prompts
from visalign.data.text_pairs import TextPair, has_pairs, read_text_pairs
from visalign.data.usable import BrokenRows
from visalign.errors import UserError, nearest
from visalign.evaluation.equal_length import equal_length_of_run
from visalign.generators.hardware.devices import pick_device, pick_dtype
from visalign.language.convert import held_precision
from visalign.language.group_shape import (
    check_groups,
    check_rewards_of_answers,
    check_step_credit,
    check_vllm,
)
from visalign.language.held_out import HeldOutAnswers, load_text_reward, load_text_suite
from visalign.language.opa import opa_rows
from visalign.language.persuasion import split_questions
from visalign.language.trl import check_trl
from visalign.language.uncertainty import check_uncertainty
from visalign.media.source_images import with_sources
from visalign.parallel.meeting import all_met
from visalign.parallel.opening import another_precision, check_configuration, is_sharded_run, uses_deepspeed
from visalign.parallel.sharing import Processes, doing
from visalign.storage.files import write_atomically
from visalign.storage.language_models import LanguageModel, load_language_model, locate_language_model
from visalign.storage.run_folder import RunFolder
from visalign.trainers.cadence import Cadence
from visalign.trainers.checkpoint import check_model
from visalign.trainers.guard import check_guard
from visalign.trainers.opening import run_of_processes
from visalign.trainers.order import prompts_to_measure
from visalign.trainers.stopping import heard
from visalign.trainers.summary import VERDICT, Result, result_figures, summarise
from visalign.trainers.tracking import check_trackers, keep_results


class KnownBefore(NamedTuple):
    """What is known before a model is loaded: the settings with the prompts to measure on, and the pairs of data.path.
    """

    config: LanguageSettings
    pairs: list[TextPair]


def check_language(config: LanguageSettings, weights: bool = True) -> KnownBefore:
    """Find every mistake that can be known before a model is loaded. Raises UserError.

    weights: whether the models must be there, and not their configurations alone.
    """
    check_trl(f"objective.name {config.objective['name']}")
    locate_language_model(config.model.source, weights=weights)
    build_objective(config.objective, loop=config.methods)
    check_guard(config)
    check_trackers(config.output.trackers)
    for reward in filter(None, (config.eval.reward, *config.eval.also)):
        load_text_reward(reward)
    load_text_suite(config.eval, "cpu")
    if config.model.reference is not None:
        locate_language_model(config.model.reference, "model.reference", weights)
    for name, teacher in config.model.teachers.items():
        locate_language_model(teacher, f"model.teachers.{name}", weights)
    return KINDS[config.methods].check(config)


def check_text_data(config: LanguageConfig) -> KnownBefore:
    data, objective = config.data, build_objective(config.objective, loop=config.methods)
    check_teachers(config, objective)
    if not data.path and not data.feedback and not data.persuasion:
        raise UserError("data: set exactly one of data.path (pairs to read), data.feedback (pairs to make) and "
                        "data.persuasion (dialogues to make)")
    pairs: list[TextPair] = []
    if data.feedback:
        check_feedback(data.feedback, objective)
        if data.feedback.uncertainty:
            check_uncertainty(data.feedback.uncertainty, config.model.source)
        prompts = read_prompts(data.feedback.prompts, data.feedback.max_prompts)
    elif data.persuasion:
        return check_persuasion(config, data.persuasion)
    else:
        broken = BrokenRows(data, 20)
        compared = "rejected" in objective.needs or ("desirable" in objective.needs and has_pairs(data))
        expand = partial(opa_rows, settings=data.opa, compared=compared) if data.opa else lambda row, where: [row]
        pairs = read_text_pairs(data, compared, broken.note, expand)
        if "desirable" in objective.needs and not compared and any(pair.desirable is None for pair in pairs):
            raise UserError(f"objective {config.objective['name']}: learns from pairs, or from answers with a column "
                            f"label, true or false; {data.path} has neither rejected nor label in every row")
        broken.check(len(pairs))
        prompts = [asked_with(pair) for pair in pairs]
    return KnownBefore(measuring_prompts(config, prompts), pairs)


def check_persuasion(config: LanguageConfig, settings: PersuasionSettings) -> KnownBefore:
    """Raise UserError for a table that cannot be used, or of which nothing is held out or nothing is left."""
    broken = BrokenRows(config.data, 20)
    questions = read_disputed(settings, broken.note)
    broken.check(len(questions))
    config = measuring_prompts(config, [each.question for each in questions])
    measured = read_prompts(config.eval.prompts, config.eval.max_prompts)
    split_questions(questions, config.data.holdout, frozenset(measured))
    return KnownBefore(config, [])


def check_feedback(feedback: TextFeedbackSettings, objective) -> None:
    """Raise UserError for a reward that cannot be loaded, and for an objective that what is made is not for."""
    for reward in feedback.rewards:
        load_text_reward(reward)
    if feedback.tree and "revision" in objective.needs:
        raise UserError("data.feedback.tree: makes pairs of parts of answers, and this objective revises whole ones; "
                        "take another objective, such as dpo")
    if feedback.imitates and {"rejected", "desirable"} & objective.needs:
        raise UserError("data.feedback.success.learn solved: makes answers to imitate, and this objective compares "
                        "answers; take objective.name=sft")


def asked_with(pair: TextPair) -> str:
    """The prompt of a pair, with its images where they are files."""
    return with_sources(pair.prompt, [image for image in pair.images if isinstance(image, str)])


def check_teachers(config: LanguageConfig, objective) -> None:
    """Raise UserError for a teacher that the objective needs and nobody names, or the reverse."""
    lacking = [name for name in objective.teachers if name not in config.model.teachers]
    if lacking:
        raise UserError(f"model.teachers: objective {config.objective['name']} learns from {', '.join(lacking)}; name "
                        f"a run or a model for each, such as {{{lacking[0]}: runs/lm-dpo}}")
    odd = next((name for name in config.model.teachers if name not in objective.teachers), None)
    if odd:
        raise UserError(f"model.teachers.{odd}: objective {config.objective['name']} has no such teacher"
                        f"{nearest(odd, objective.teachers) if objective.teachers else ''}")


def measuring_prompts(config: LanguageSettings, prompts: list[str]) -> LanguageSettings:
    """The settings with the prompts to measure on: as the user names them, or those held out of the data's."""
    if config.eval.prompts is not None:
        read_prompts(config.eval.prompts, config.eval.max_prompts)
        return config
    held = prompts_to_measure(prompts, *config.holdout)[:config.eval.max_prompts]
    return config.model_copy(update={"eval": config.eval.model_copy(update={"prompts": held})})


@heard()
def train_language(config: LanguageSettings, resume: bool = False) -> Result:
    """Run a language recipe. Raises UserError for anything the user can fix, Stopped when a signal ends it."""
    started = time.time()
    config, pairs = check_language(config)
    with opened_language_run(config, resume) as (accelerator, run):
        model = load_language_model(config.model.source, held_precision(config), vision=config.model.vision)
        check_model(run, [model.model], f"model.source {config.model.source}")
        return trained_language(config, pairs, model, accelerator, run, started)


def check_division(device: torch.device) -> None:
    """Raise UserError for what accelerate's configuration asks and a language run would not do."""
    check_configuration()
    if uses_deepspeed():
        raise UserError("accelerate: DeepSpeed is not supported for language models; use configs/accelerate/fsdp2.yaml "
                        "on GPUs, or configs/accelerate/ddp.yaml")
    if is_sharded_run() and device.type == "cpu":
        raise UserError("accelerate: FSDP2 of language models needs GPUs, since accelerate's own, which TRL uses, "
                        "leaves processes on CPUs undivided without a word; use configs/accelerate/ddp.yaml")


@contextlib.contextmanager
def opened_language_run(config: LanguageSettings, resume: bool) -> Iterator[tuple[Accelerator, RunFolder]]:
    """A run, within which its processes end together. Raises UserError when the folder cannot be this run's."""
    device = pick_device(config.train.device)
    check_division(device)
    precision = pick_dtype(config.model.precision, device)
    patience = max(timedelta(hours=3), timedelta(minutes=2 * config.train.wait_minutes))
    mixed = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(precision, "no")
    another_precision(mixed)
    with all_met():
        accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[InitProcessGroupKwargs(timeout=patience)],
                                  mixed_precision=mixed)
    with run_of_processes(accelerator, config, resume) as run:
        yield run


def trained_language(config: LanguageSettings, pairs: list[TextPair], model: LanguageModel, accelerator: Accelerator,
                     run: RunFolder, started: float) -> Result:
    """Prepare, train, measure and export in a run that is open."""
    processes = Processes(accelerator.process_index, accelerator.num_processes)
    model.model.to(accelerator.device)
    suite, proxy = load_text_suite(config.eval, str(accelerator.device))
    kind = KINDS[config.methods]
    trainer, counts, conversations = kind.build(config, pairs, model, run, processes)
    trainer.accelerator.trackers = accelerator.trackers
    held_out = HeldOutAnswers(config.eval, suite, proxy, processes, conversations, trainer.remember)
    with trainer.started():
        cadence = Cadence(trainer, replace(held_out, settings=config.eval), started)
        ended = cadence.follow()
        result = processes.told_by_first(lambda: summarise(
            run, started, proxy, cadence.guard.limits, ended, lambda rows: equal_length_of_run(run.path, rows, suite)))
        leave_language(trainer, model, result, counts)
    return result


def leave_language(trainer, model: LanguageModel, result: Result, counts: dict[str, int]) -> None:
    """Write what a finished run leaves: the weights, its page and its verdict."""
    from visalign.generators.export.model_card import versions
    from visalign.language.export import export_language, language_versions
    from visalign.reports.run import write_report

    run, config = trainer.run, trainer.config
    doing("exporting")
    figures = result_figures(result)
    export_language(trainer, model, run.path / "export", figures | {"evidence": "; ".join(result.verdict.reasons)})
    if run.is_main:
        write_report(run, config, result, versions() | language_versions(), counts)
        write_atomically(run.path / VERDICT, (json.dumps(result.verdict.as_dict(), indent=2) + "\n").encode())
        keep_results(trainer.accelerator, run, ("report.html", VERDICT, "config.yaml"), figures)


class LanguageKind(NamedTuple):
    """check(config) -> KnownBefore; build(config, pairs, model, run, processes) -> a LanguageTrainer, what it learns
    from in numbers, and the conversations of prompts that are the last turn of several."""

    check: Callable[..., KnownBefore]
    build: Callable[..., tuple[Any, dict[str, int], dict]]


def build_on_pairs(config: LanguageConfig, pairs: list[TextPair], model: LanguageModel, run: RunFolder,
                   processes: Processes):
    from visalign.language.offline import build_pair_trainer

    return build_pair_trainer(config, pairs, model, run, processes)


def build_on_prompts(config, pairs: list[TextPair], model: LanguageModel, run: RunFolder, processes: Processes):
    from visalign.language.online import build_group_trainer

    return build_group_trainer(config, model, run, processes)


def check_prompts(config) -> KnownBefore:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    check_groups(config, world)
    check_rewards_of_answers(config, world)
    check_step_credit(config)
    check_vllm(config)
    return KnownBefore(measuring_prompts(config, read_prompts(config.rollout.prompts, config.rollout.max_prompts)), [])


KINDS = {"language": LanguageKind(check_text_data, build_on_pairs),
         "language_online": LanguageKind(check_prompts, build_on_prompts)}
