"""A run from pairs put together: tokens, held-out pairs, the trainer and what it measures beside answers."""

import copy
import os
from collections.abc import Sequence
from typing import Any

import torch

from visalign.config import LanguageConfig
from visalign.config.language_feedback import PersuasionSettings
from visalign.config.load import build_objective
from visalign.data.persuasion import read_disputed
from visalign.data.prompts import read_prompts
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError, notice
from visalign.language.chat import TokenRow, encode_pairs_of_text
from visalign.language.convert import held_precision, peft_config, trl_arguments
from visalign.language.diagnostics import ches_of_rows, own_kl, pair_numbers
from visalign.language.feedback import feedback_text_pairs, read_feedback, write_feedback
from visalign.language.goals import system_in_use, with_goals
from visalign.language.held_out import load_text_reward
from visalign.language.persuasion import (
    PersuasionMeasure,
    persuasion_pairs,
    read_dialogue_pairs,
    split_questions,
    write_dialogues,
)
from visalign.language.preference import ROW_COLUMNS, PairCollator, PreferenceTrainer
from visalign.language.sampling import Answerer
from visalign.language.trainer import LanguageTrainer, StepNotes
from visalign.language.uncertainty import PairDoubts
from visalign.language.vision import VisionCollator, vision_rows
from visalign.media.conversations import Message
from visalign.objectives.links import LabelTable
from visalign.parallel.sharing import Processes
from visalign.storage.language_models import LanguageModel, load_language_model
from visalign.storage.run_folder import RunFolder
from visalign.trainers.order import is_held_out


def build_pair_trainer(config: LanguageConfig, pairs: list[TextPair], model: LanguageModel, run: RunFolder,
                  processes: Processes) -> tuple[LanguageTrainer, dict[str, int], dict[str, tuple[Message, ...]]]:
    """The trainer of a run from pairs, what it learns from in numbers, and its conversations of several turns."""
    measured = frozenset(read_prompts(config.eval.prompts, config.eval.max_prompts))
    persuasion = None
    if config.data.feedback:
        pairs = made_pairs(config, model, run, measured, processes)
    elif config.data.persuasion:
        pairs, persuasion = made_dialogues(config, config.data.persuasion, model, run, measured, processes)
    system = system_in_use(config)
    if config.data.goals:
        pairs = with_goals(pairs, config.data.goals)
    objective = build_objective(config.objective, loop=config.methods)
    check_numbers(objective, pairs, config)
    if config.model.vision:
        rows = vision_rows(model, pairs, system, run.path / "pictures", config.train.max_length)
    else:
        rows = encode_pairs_of_text(model.tokenizer, pairs, system, config.train.max_length, config.train.max_longer,
                                    config.data.named, "revision" in objective.needs)
    with_gaps(rows, pairs, objective)
    rows = without_alike(rows, config, model)
    kept = [row for row in rows if not is_held_out(row["prompt"], config.data.holdout, measured)]
    held = [row for row in rows if is_held_out(row["prompt"], config.data.holdout, measured)]
    if not kept:
        raise UserError(f"data.holdout {config.data.holdout:g}: leaves nothing to train on, since all {len(rows)} "
                        "pairs have held-out prompts; take a smaller share")
    labels = LabelTable(objective.dynamic_labels) if getattr(objective, "dynamic_labels", 0) else None
    notes = StepNotes()
    loop = preference_loop(config, model, kept, run, objective, labels, notes.keep)
    trainer = LanguageTrainer(config, run, loop, notes, Answerer(loop.model, model.tokenizer, system, model.processor),
                              objective)
    trainer.held_out_numbers = lambda answers: pair_numbers(loop, held, processes) | ({} if config.model.vision else
        own_kl(loop, model.tokenizer, system, answers, processes)) | (
            persuasion.numbers(trainer.answerer) if persuasion else {})
    talks = {pair.prompt: pair.messages for pair in pairs if len(pair.messages) > 1 and pair.prompt in measured}
    return trainer, {"pairs to train on": len(kept), "held-out pairs": len(held)}, talks


def preference_loop(config: LanguageConfig, model: LanguageModel, rows: list[TokenRow], run: RunFolder, objective,
                    labels: LabelTable | None, on_metrics) -> PreferenceTrainer:
    """TRL's loop on rows of tokens. The policy's adapter is made here; its reference is the model without it, and for
    a full fine-tune a copy."""
    from datasets import Dataset

    arguments = trl_arguments(config, "DPOConfig", str(run.path / "checkpoints"))
    full, compares = config.model.tuning == "full", bool({"reference", "distributions", "hidden"} & objective.needs)
    arguments.precompute_ref_log_probs = full and not compares  # which keeps TRL from loading a reference
    columns = (*ROW_COLUMNS, *objective.columns, *(f"gap.{name}" for name in objective.rewards))
    torch.manual_seed(config.train.seed)
    return PreferenceTrainer(
        objective=objective, on_metrics=on_metrics, labels=labels, model=model.model, args=arguments,
        ref_model=reference_model(config, model) if compares else None,
        data_collator=collator(config, model, columns), train_dataset=Dataset.from_list(rows),
        teachers=load_teachers(config, model), heads=mask_heads(objective, model),
        processing_class=model.processor or model.tokenizer,
        peft_config=None if full else peft_config(config.model.lora))


def reference_model(config: LanguageConfig, model: LanguageModel) -> Any:
    """The frozen model that the policy is compared with: one that is named, or a copy of a model of which all weights
    learn; None where it is the model without its adapter. Raises UserError for another vocabulary."""
    if config.model.reference is None:
        return copy.deepcopy(model.model) if config.model.tuning == "full" else None
    return frozen_model(config.model.reference, "model.reference", config, model)


def frozen_model(source: str, where: str, config: LanguageConfig, model: LanguageModel) -> Any:
    """Raises UserError for a model with another tokenizer."""
    found = load_language_model(source, held_precision(config), where, config.model.vision)
    if found.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise UserError(f"{where} {source}: has another tokenizer than {config.model.source}, so its tokens cannot be "
                        "compared")
    return found.model.requires_grad_(False).to(model.model.device)


def collator(config: LanguageConfig, model: LanguageModel, columns: Sequence[str]) -> PairCollator | VisionCollator:
    """What makes batches of rows."""
    if config.model.vision:
        return VisionCollator(model.processor, columns, config.train.max_length)
    return PairCollator(model.tokenizer.pad_token_id, columns)


def load_teachers(config: LanguageConfig, model: LanguageModel) -> dict[str, Any]:
    """The frozen models that an objective learns from. Raises UserError for one with another vocabulary."""
    return {name: frozen_model(source, f"model.teachers.{name}", config, model)
            for name, source in config.model.teachers.items()}


def mask_heads(objective, model: LanguageModel) -> Any:
    """What learns masks beside the model, None for most objectives. Raises UserError in several processes."""
    if not hasattr(objective, "heads"):
        return None
    config = model.model.config.get_text_config()
    heads = objective.heads(config.num_hidden_layers + 1, config.hidden_size)
    if heads is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("objective.mask learnt: its heads learn in one process; use objective.mask=activations, or one "
                        "process")
    return heads


def made_pairs(config: LanguageConfig, model: LanguageModel, run: RunFolder, measured: frozenset[str],
               processes: Processes) -> list[TextPair]:
    """Pairs of the model's own answers, those of an earlier session where it has made them."""
    known = processes.told_by_first(lambda: read_feedback(run.path))
    if known:
        return known
    settings = config.data.feedback
    pairs = feedback_text_pairs(Answerer(model.model, model.tokenizer, config.model.system), settings,
                                [load_text_reward(each, str(model.model.device)) for each in settings.rewards],
                                config.train.seed, measured, processes, run.path)
    unsure = settings.uncertainty
    if unsure:
        measures = config.eval.reward if config.eval.reward != settings.reward else None
        doubts = PairDoubts(unsure, config.train.seed, config.model.system, measures)
        where = "data.feedback.uncertainty.reference"
        pairs = processes.told_by_first(lambda: doubts.sure_pairs(
            pairs, model, frozen_model(unsure.reference, where, config, model), run.path))
    if processes.is_first:
        write_feedback(pairs, run.path)
    return pairs


def made_dialogues(config: LanguageConfig, settings: PersuasionSettings, model: LanguageModel, run: RunFolder,
                   measured: frozenset[str], processes: Processes) -> tuple[list[TextPair], PersuasionMeasure]:
    """Pairs of dialogues that persuade, those of an earlier session where it has made them, and what measures whether
    the model accepts good persuasion and resists bad."""
    questions = read_disputed(settings, lambda error: None)  # whose broken rows the check has counted
    learnt, held = split_questions(questions, config.data.holdout, measured)
    measure = PersuasionMeasure(settings, held, config.eval, config.eval.samples_per_prompt, config.eval.seed,
                                processes)
    known = processes.told_by_first(lambda: read_dialogue_pairs(run.path))
    if known:
        return known, measure
    pairs = persuasion_pairs(Answerer(model.model, model.tokenizer, config.model.system), settings, questions,
                             config.train.seed, frozenset(learnt).__contains__, processes)
    if processes.is_first:
        write_dialogues(pairs, run.path)
    return pairs, measure


def without_alike(rows: list[TokenRow], config: LanguageConfig, model: LanguageModel) -> list[TokenRow]:
    """The rows without the share data.drop_ches of which both answers are most alike to the model."""
    share = config.data.drop_ches
    if not share:
        return rows
    if "rejected_ids" not in rows[0]:
        raise UserError(f"data.drop_ches {share:g}: compares the answers of pairs, and these rows have one each")
    scores = ches_of_rows(model.model, rows, model.tokenizer.pad_token_id)
    order = sorted(range(len(rows)), key=lambda i: -scores[i])
    dropped = frozenset(order[:int(share * len(rows))])
    notice(f"data.drop_ches {share:g}: {len(dropped)} of {len(rows)} pairs are left out, whose answers are alike")
    return [row for i, row in enumerate(rows) if i not in dropped]


def check_numbers(objective, pairs: Sequence[TextPair], config: LanguageConfig) -> None:
    """Raise UserError for a column or a reward that the objective needs and a pair has not."""
    wanted = [(name, "column") for name in objective.columns] + [
        (f"{side}.{name}", "reward") for name in objective.rewards for side in ("chosen", "rejected")]
    for name, what in wanted:
        lacking = next((pair for pair in pairs if pair.numbers.get(name) is None), None)
        if lacking:
            raise UserError(f"objective.{config.objective['name']}: needs the {what} '{name}', which {lacking.where} "
                            "has not")


def with_gaps(rows: list[TokenRow], pairs: Sequence[TextPair], objective) -> None:
    """Put the differences of the rewards that an objective weighs into the rows, in standard deviations of the set."""
    for name in objective.rewards:
        values = torch.tensor([[pair.numbers[f"{side}.{name}"] for side in ("chosen", "rejected")] for pair in pairs],
                              dtype=torch.float64)
        spread = values.std(correction=0).item() or 1.0
        for row in rows:
            chosen, rejected = values[row["row"]].tolist()
            row[f"gap.{name}"] = (chosen - rejected) / spread
