"""A run on a model's own answers put together: prompts, rewards, advantages and TRL's loop around them."""

import contextlib
import shutil
from collections.abc import Iterator

from visalign.config import LanguageOnlineConfig
from visalign.config.load import build_advantage, build_objective
from visalign.data.prompts import read_prompts
from visalign.language.convert import peft_config, trl_arguments
from visalign.language.diagnostics import own_kl
from visalign.language.group_shape import prompts_to_answer
from visalign.language.group_trainer import GroupParts, GroupTrainer, OwnPasses
from visalign.language.sampling import Answerer
from visalign.language.scored_answers import AnswerScorer
from visalign.language.step_credit import StepCredit
from visalign.language.trainer import LanguageTrainer, StepNotes
from visalign.media.conversations import Message
from visalign.parallel.sharing import Processes
from visalign.storage.language_models import LanguageModel
from visalign.storage.run_folder import RunFolder
from visalign.trainers.online.scoring import RewardSet


def build_group_trainer(config: LanguageOnlineConfig, model: LanguageModel, run: RunFolder, processes: Processes
                        ) -> tuple[LanguageTrainer, dict[str, int], dict[str, tuple[Message, ...]]]:
    """The trainer of a run on own answers, what it learns from in numbers, and no conversations of several turns."""
    measured = frozenset(read_prompts(config.eval.prompts, config.eval.max_prompts))
    prompts = prompts_to_answer(config, model.tokenizer, measured)
    objective, notes = build_objective(config.objective, loop=config.methods), StepNotes()
    with kept_start(config, model, run, processes) as arguments:
        loop = group_loop(config, model, prompts, run, processes, objective, notes, arguments)
    trainer = LanguageTrainer(config, run, loop, notes, Answerer(loop.model, model.tokenizer, config.model.system),
                              objective, whole=objective.updates)
    passes = OwnPasses(loop, model.tokenizer.pad_token_id)
    trainer.held_out_numbers = lambda answers: own_kl(passes, model.tokenizer, config.model.system, answers, processes)
    counts = {"prompts to answer": len(prompts), "answers a step": config.rollout.answers_per_step}
    if config.rollout.step_credit is not None:
        counts["tries of parts of answers, at most"] = config.rollout.step_credit.most_tries(
            config.rollout.prompts_per_step, config.rollout.answers_per_step)
    return trainer, counts, {}


def group_loop(config: LanguageOnlineConfig, model: LanguageModel, prompts: list[list[Message]], run: RunFolder,
               processes: Processes, objective, notes: StepNotes, arguments) -> GroupTrainer:
    """TRL's loop on conversations to answer; the policy's adapter is made here."""
    from datasets import Dataset

    device, rollout = str(model.model.device), config.rollout
    ends = model.model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    rewards, ends = RewardSet(config.reward, device, "text"), [*ends, model.tokenizer.eos_token_id]
    scorer = AnswerScorer(rewards, ends, rollout.group_size, processes, device)
    credit, steps = rollout.step_credit, None
    if credit is not None:
        tries = AnswerScorer(rewards.only(credit.of), ends, rollout.group_size, processes, device,
                             rollout.answers_per_step // processes.world)
        steps = StepCredit(credit, tries, model.tokenizer, notes)
    parts = GroupParts(build_advantage(config.advantage), objective, scorer, run, notes, config.reward.levels,
                       rollout.batch_size, rollout.patience, rollout.branch and rollout.branch.prefix, steps)
    return GroupTrainer(
        parts=parts, model=model.model, args=arguments,
        train_dataset=Dataset.from_list([{"prompt": talk} for talk in prompts]), processing_class=model.tokenizer,
        peft_config=peft_config(config.model.lora) if config.model.tuning == "lora" else None)


@contextlib.contextmanager
def kept_start(config: LanguageOnlineConfig, model: LanguageModel, run: RunFolder, processes: Processes
               ) -> Iterator[object]:
    """A context with TRL's arguments, in which the reference can be loaded.

    Of a full fine-tune TRL loads it from the path in the model's configuration, which may hold other weights than these
    or none: they are kept in start/ of the run while it does.
    """
    arguments = trl_arguments(config, "GRPOConfig", str(run.path / "checkpoints"))
    if config.model.tuning != "full" or not arguments.beta:
        yield arguments
        return
    folder, known = run.path / "start", model.model.config._name_or_path
    processes.told_by_first(lambda: model.model.save_pretrained(folder))
    model.model.config._name_or_path = str(folder)
    try:
        yield arguments
    finally:
        model.model.config._name_or_path = known
    processes.gather([None])  # all have read it
    if processes.is_first:
        shutil.rmtree(folder)
