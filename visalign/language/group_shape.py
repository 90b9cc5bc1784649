"""Whether answers divide into groups, passes and updates, and rewards go with what learns from them."""

import importlib.util

import torch

from visalign.config import LanguageOnlineConfig
from visalign.config.load import build_advantage, build_objective
from visalign.data.prompts import read_prompts
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError, nearest, notice
from visalign.language.chat import check_controls
from visalign.media.conversations import Message, prompt_tokens, with_system
from visalign.media.source_images import content_of
from visalign.parallel.opening import is_sharded_run
from visalign.trainers.online.scoring import RewardSet
from visalign.trainers.order import is_held_out


def check_groups(config: LanguageOnlineConfig, world: int) -> None:
    """Raise UserError naming the numbers to change when answers do not divide."""
    rollout, train, size = config.rollout, config.train, config.rollout.answers_per_step
    rule, objective = build_advantage(config.advantage), build_objective(config.objective, loop=config.methods)
    if rule.process_weight:
        raise UserError(f"advantage.process_weight {rule.process_weight:g}: weighs sampling steps of images and "
                        "videos; leave it out")
    if rule.rarity:
        raise UserError(f"advantage.rarity {rule.rarity:g}: tells kinds of images and videos apart, not of answers; "
                        "leave it out")
    if rule.finds_weights:
        raise UserError(f"advantage.combine {rule.combine}: finds weights of rewards of images and videos, not of "
                        "answers; use rewards, advantages or gdpo")
    if rule.schedule is not None:
        raise UserError("advantage.schedule: tells the noise levels of images and videos apart, which answers have "
                        "none of; leave it out")
    together = train.batch_size * world
    if size % together:
        raise UserError(f"rollout.prompts_per_step {rollout.prompts_per_step} x rollout.group_size "
                        f"{rollout.group_size} = {size} answers are not a multiple of train.batch_size "
                        f"{train.batch_size} x {world} processes = {together}; change one of these numbers")
    if objective.compares and train.batch_size % rollout.group_size:
        raise UserError(f"train.batch_size {train.batch_size} must be a multiple of rollout.group_size "
                        f"{rollout.group_size}: {config.objective['name']} compares the answers of a group")
    if rollout.branch and rollout.prompts_per_step % world:
        raise UserError(f"rollout.prompts_per_step {rollout.prompts_per_step} must be a multiple of the {world} "
                        "processes with rollout.branch: the answers of a group share their beginning")
    if rollout.step_credit and rollout.prompts_per_step % world:
        raise UserError(f"rollout.prompts_per_step {rollout.prompts_per_step} must be a multiple of the {world} "
                        "processes with rollout.step_credit: the answers of a group share what is tried before them")
    if rule.baseline == "median" and rollout.group_size % 2 == 0:
        raise UserError(f"rollout.group_size {rollout.group_size}: must be odd with advantage.baseline median (MC-GRPO "
                        "draws one answer more than it trains on)")
    for name, steps in (("train.steps", train.steps), ("output.checkpoint_every", config.output.checkpoint_every)):
        if steps % objective.updates:
            raise UserError(f"{name} {steps}: must be a multiple of objective.updates {objective.updates}, the steps "
                            "that learn from the same answers")


def check_rewards_of_answers(config: LanguageOnlineConfig, world: int) -> None:
    """Raise UserError for names of rewards that no reward has, for levels that nothing would read, and for a reward of
    whole groups where processes share them."""
    reward_set = RewardSet(config.reward, "cpu", "text")
    names, prompts = reward_set.names, config.rollout.prompts_per_step
    grouped = next((term.name for term in reward_set.terms if term.reward.needs_group), None)
    if grouped and prompts % world:
        raise UserError(f"rollout.prompts_per_step {prompts} must be a multiple of the {world} processes: reward "
                        f"{grouped} compares the answers of a group")
    rule, objective = build_advantage(config.advantage), build_objective(config.objective, loop=config.methods)
    credit = config.rollout.step_credit
    for setting, given in (("advantage.gate", [rule.gate] if rule.gate is not None else []),
                           ("rollout.step_credit.of", [credit.of] if credit is not None else []),
                           ("reward.levels", list(config.reward.levels))):
        for name in given:
            if name not in names:
                raise UserError(f"{setting} {name}: names no reward; the rewards are {', '.join(names)}"
                                f"{nearest(name, names)}")
    if config.reward.levels and not objective.compares:
        raise UserError(f"reward.levels: only objective pairs_in_group reads them, not {config.objective['name']}")


def check_step_credit(config: LanguageOnlineConfig) -> None:
    """Raise UserError for what credit for steps does not go with, and for a reward that cannot say what succeeds."""
    credit = config.rollout.step_credit
    if credit is None:
        return
    objective = build_objective(config.objective, loop=config.methods)
    if objective.compares:
        raise UserError(f"rollout.step_credit: credits tokens, and objective {config.objective['name']} compares whole "
                        "answers; take objective grpo")
    if objective.level == "sequence":
        raise UserError("rollout.step_credit: credits tokens, and objective.level sequence has one ratio for all "
                        "tokens of an answer; take level token")
    if any(term.reward.needs_group for term in RewardSet(config.reward, "cpu", "text").only(credit.of).terms):
        raise UserError(f"rollout.step_credit.of {credit.of}: compares the answers of a group, so it cannot say "
                        "whether one answer succeeds; name another reward")
    if is_sharded_run():
        raise UserError("rollout.step_credit: processes try as many parts as their answers have, which goes with whole "
                        "models only; use configs/accelerate/ddp.yaml")


def check_vllm(config: LanguageOnlineConfig) -> None:
    """Raise UserError where vLLM cannot be used."""
    if config.rollout.vllm and (not torch.cuda.is_available() or config.train.device == "cpu"):
        raise UserError("rollout.vllm: needs a GPU, and this run has none; leave it out to draw answers with "
                        "transformers")
    if config.rollout.vllm and importlib.util.find_spec("vllm") is None:
        raise UserError("rollout.vllm: vLLM is not installed (pip install 'trl[vllm]')")


def prompts_to_answer(config: LanguageOnlineConfig, tokenizer, measured: frozenset[str]) -> list[list[Message]]:
    """The conversations to answer: prompts that are not held out, those that leave too little room left out.

    Raises UserError when too many are too long, one holds control tokens, or fewer are left than a step asks.
    """
    rollout, train, credit = config.rollout, config.train, config.rollout.step_credit
    held = frozenset(map(content_of, measured))
    prompts = [prompt for prompt in dict.fromkeys(read_prompts(rollout.prompts, rollout.max_prompts))
               if not is_held_out(prompt, rollout.holdout, held)]
    for prompt in prompts:
        check_controls(tokenizer, TextPair(({"role": "user", "content": prompt},), "", None,
                                           f"rollout.prompts '{prompt[:60]}'"))
    talks = [with_system([{"role": "user", "content": prompt}], config.model.system) for prompt in prompts]
    lengths = [len(prompt_tokens(tokenizer, talk)) for talk in talks]
    begun = 0 if rollout.branch is None else rollout.branch.prefix
    begun = rollout.max_tokens if begun == "sentence" else begun
    tried = 0
    if credit is not None:
        check_controls(tokenizer, TextPair(({"role": "user", "content": credit.forced or ""},), "", None,
                                           "rollout.step_credit.forced"))
        tried = credit.max_tokens + len(tokenizer(credit.forced or "", add_special_tokens=False)["input_ids"])
    room = train.max_length - rollout.max_tokens - begun - tried
    kept = [talk for talk, length in zip(talks, lengths, strict=True) if length <= room]
    longer = len(talks) - len(kept)
    if longer > train.max_longer * len(talks):
        more = "".join(f" and what {name} may add" for name, tokens in (
            ("rollout.branch", begun), ("rollout.step_credit", tried)) if tokens)
        raise UserError(f"train.max_length {train.max_length} less rollout.max_tokens {rollout.max_tokens}{more} "
                        f"leaves {room} tokens for a prompt: {longer} of {len(talks)} prompts are longer, up to "
                        f"{max(lengths)}, more than the share {train.max_longer:g} of train.max_longer; nothing is "
                        "ever cut, so raise it")
    if longer:
        notice(f"train.max_length {train.max_length}: {longer} of {len(talks)} prompts are longer than the {room} "
               "tokens that rollout.max_tokens leaves and are left out")
    if len(kept) < rollout.prompts_per_step:
        raise UserError(f"rollout.prompts {rollout.prompts}: {len(kept)} prompts are left to learn from, fewer than "
                        f"rollout.prompts_per_step {rollout.prompts_per_step}")
    return kept
