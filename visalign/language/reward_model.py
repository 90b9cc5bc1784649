"""A reward model of text: a language model with one output in place of its vocabulary, trained on pairs by TRL.

    RUN/reward/          the classifier with its tokenizer, which `sequence:RUN/reward` names wherever a reward is named
    RUN/accuracy.json    share of held-out pairs whose chosen answer scores higher, with its interval over prompts
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visalign.config.language_reward import LanguageRewardConfig
from visalign.config.load import build_objective
from visalign.data.text_pairs import TextPair, read_text_pairs
from visalign.data.usable import BrokenRows
from visalign.errors import UserError
from visalign.evaluators import Estimate
from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.language.chat import check_controls, with_system
from visalign.language.convert import held_precision, peft_config, trl_arguments
from visalign.language.run import opened_language_run
from visalign.language.trainer import LanguageTrainer, StepNotes
from visalign.language.trl import check_trl, import_trl
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.rewards import load_reward, scores_of
from visalign.storage.files import write_atomically
from visalign.storage.language_models import LanguageModel, load_language_model, locate_language_model
from visalign.trainers.checkpoint import check_model
from visalign.trainers.order import split_by_prompt
from visalign.trainers.stopping import heard
from visalign.trainers.tracking import check_trackers

ACCURACY = "accuracy.json"


@dataclass(frozen=True)
class TextRewardResult:
    """Where a reward model lies, and its accuracy on held-out pairs (None where none were held out)."""

    folder: Path
    accuracy: Estimate | None
    held_out: int
    seconds: float


@heard()
def train_text_reward(config: LanguageRewardConfig, resume: bool = False) -> TextRewardResult:
    """Train, save and measure. Raises UserError for anything the user can fix, Stopped when a signal ends it."""
    started = time.time()
    check_trl("reward train")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("reward train: a reward model of text is trained by one process; start it without torchrun")
    locate_language_model(config.model.source)
    check_trackers(config.output.trackers)
    broken = BrokenRows(config.data, 20)
    pairs = read_text_pairs(config.data, True, broken.note)
    broken.check(len(pairs))
    trained, held_out = split_by_prompt(pairs, config.data.holdout)
    with opened_language_run(config, resume) as (accelerator, run):
        base = load_language_model(config.model.source, held_precision(config))
        check_model(run, [base.model], f"model.source {config.model.source}")
        classifier = as_classifier(base, config.train.seed)
        loop = reward_loop(config, classifier, base, reward_rows(config, base, trained), run.path / "checkpoints")
        trainer = LanguageTrainer(config, run, loop, StepNotes(), None, build_objective(
            config.objective, loop=config.methods))
        trainer.accelerator.trackers = accelerator.trackers
        with trainer.started():
            trainer.fit(lambda step: False)
        network = loop.model.merge_and_unload() if config.model.tuning == "lora" else loop.model
        network.save_pretrained(run.path / "reward")
        base.tokenizer.save_pretrained(run.path / "reward")
        accuracy = accuracy_of(run.path / "reward", held_out, str(accelerator.device)) if held_out else None
        if accuracy is not None:
            content = {"pairs": len(held_out), "accuracy": accuracy._asdict(), "settings": asdict(trainer.objective)}
            write_atomically(run.path / ACCURACY, (json.dumps(content, indent=2) + "\n").encode())
    return TextRewardResult(run.path, accuracy, len(held_out), time.time() - started)


def as_classifier(base: LanguageModel, seed: int) -> Any:
    """The language model with one new output on its last token; the output starts equal after a restart."""
    from transformers import AutoModelForSequenceClassification

    config = type(base.model.config).from_dict(base.model.config.to_dict() | {
        "num_labels": 1, "pad_token_id": base.tokenizer.pad_token_id})
    torch.manual_seed(seed)
    try:
        classifier = AutoModelForSequenceClassification.from_config(config, dtype=base.model.dtype)
    except ValueError:
        raise UserError(f"model.source {base.described}: transformers knows no classifier of its kind "
                        f"({base.model.config.model_type}), so it cannot become a reward model") from None
    classifier.base_model.load_state_dict(base.model.base_model.state_dict())
    return classifier


def reward_rows(config: LanguageRewardConfig, base: LanguageModel, pairs: list[TextPair]) -> list[dict]:
    """chosen_ids and rejected_ids, whole conversations, and margin. Raises UserError when too many are too long."""
    objective, rows, longer = build_objective(config.objective, loop=config.methods), [], 0
    for pair in pairs:
        check_controls(base.tokenizer, pair)
        messages = with_system(pair.messages, config.model.system)
        sides = {f"{name}_ids": base.tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": pair.whole(text)}], return_dict=True)["input_ids"]
            for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected))}
        if max(map(len, sides.values())) > config.train.max_length:
            longer += 1
            continue
        rows.append(sides | {"margin": objective.margin * pair.strength})
    if longer > config.train.max_longer * len(pairs) or not rows:
        raise UserError(f"train.max_length {config.train.max_length}: {longer} of {len(pairs)} pairs of "
                        f"{config.data.named} are longer, more than the share {config.train.max_longer:g} of "
                        "train.max_longer; nothing is ever cut, so raise it")
    return rows


def reward_loop(config: LanguageRewardConfig, classifier: Any, base: LanguageModel, rows: list[dict],
                folder: Path) -> Any:
    """TRL's trainer of reward models on rows of tokens."""
    from datasets import Dataset
    from peft import get_peft_model

    trl = import_trl("trl.trainer.reward_trainer")

    class RewardModelTrainer(trl.RewardTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset  # rows are tokens already

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """None in checkpoints."""

    arguments = trl_arguments(config, "RewardConfig", str(folder))
    if config.model.tuning == "lora":
        adapter = peft_config(config.model.lora)
        adapter.task_type, adapter.modules_to_save = "SEQ_CLS", ["score"]
        torch.manual_seed(config.train.seed)
        classifier = get_peft_model(classifier, adapter)
    return RewardModelTrainer(model=classifier, args=arguments, train_dataset=Dataset.from_list(rows),
                              processing_class=base.tokenizer)


def accuracy_of(folder: Path, pairs: list[TextPair], device: str) -> Estimate:
    """Share of pairs whose chosen answer scores higher, ties one half, with its interval over prompts."""
    reward = load_reward(f"sequence:{folder}", device)
    chosen, rejected = (scores_of(reward, [Sample(pair.prompt, Answer(pair.whole(getattr(pair, side))))
                                           for pair in pairs])[0] for side in ("chosen", "rejected"))
    wins = (chosen > rejected).float() + (chosen == rejected).float() / 2
    return clustered_mean(wins.double().numpy(), np.unique([pair.prompt for pair in pairs], return_inverse=True)[1])
