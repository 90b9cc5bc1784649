"""TRL's GRPO trainer, opened once for this package's advantages, and for losses that compare a group's answers.

What is TRL's: sampling, GRPO's loss, the reference, batches, checkpoints. What is not: rewards and advantages (of whole
answers, or of tokens where steps are credited), and the loss of objectives that compare. Answers lie prompt by prompt,
`group_size` consecutive ones over all processes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.language.preference import PairCollator
from visalign.language.scored_answers import AnswerScorer, ScoredAnswers, write_own_answers
from visalign.language.step_credit import CreditedAnswers, DrawnAnswers, StepCredit
from visalign.language.trainer import StepNotes
from visalign.language.trl import import_trl
from visalign.objectives.advantages import AdvantageRule, Advantages, History
from visalign.objectives.language import TokenLogs
from visalign.objectives.online import members_of
from visalign.objectives.pairs_in_group import AnswerTerms, levels_of
from visalign.parallel.sharing import doing
from visalign.storage.files import write_atomically
from visalign.storage.run_folder import RunFolder
from visalign.storage.weights import read_json
from visalign.trainers.online.reward_figures import advantage_figures, reward_figures

_grpo = import_trl("trl.trainer.grpo_trainer")
_utils = import_trl("trl.trainer.utils")
_peft = import_trl("trl.models.utils")

HISTORY = "history.json"
LOGGED = {"kl": "kl", "entropy": "entropy", "clip_ratio/high_mean": "clipped_above", "clip_ratio/low_mean":
          "clipped_below", "completions/mean_length": "answer_tokens", "completions/clipped_ratio": "truncated"}
"""Of what TRL measures, what is logged, and how it is called here."""


@dataclass
class GroupParts:
    """What answers are scored and compared with. levels: of rewards by name, what each must reach. at_once: answers
    drawn together. patience: batches in a row without anything to learn. prefix: tokens of the beginning that a group's
    answers share, or "sentence"; None: they share none. steps: credit for the steps of answers, or None."""

    rule: AdvantageRule
    objective: Any
    scorer: AnswerScorer
    run: RunFolder
    notes: StepNotes
    levels: Mapping[str, float]
    at_once: int
    patience: int
    prefix: int | str | None
    steps: StepCredit | None


class GroupTrainer(_grpo.GRPOTrainer):
    """parts: what this package brings; the rest as TRL's."""

    def __init__(self, *, parts: GroupParts, **given: Any):
        self.parts = parts
        self.history = History(parts.rule.history) if parts.rule.history else None
        self.idle = 0  # batches in a row with nothing to learn
        self._newest: Tensor | None = None  # log-probabilities of the last pass
        self._begun: list[list[int]] = []  # beginnings of the answers that are drawn, where they have some
        self._drawn = DrawnAnswers([], [], [], [])  # the last answers, where their steps are credited
        super().__init__(reward_funcs=[parts.scorer.totals], **given)

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        size = len(prompt_ids) if self.use_vllm else self.parts.at_once
        drawn = []
        for start in range(0, len(prompt_ids), size):
            drawn.append(super()._generate_single_turn(prompt_ids[start:start + size], None, {}, num_generations))
            doing()
        log_probs = None if drawn[0][1] is None else [each for _, part in drawn for each in part]
        return [answer for answers, _ in drawn for answer in answers], log_probs

    def _tokenize_prompts(self, prompts):
        tokens, images, fields = super()._tokenize_prompts(prompts)
        if self.parts.prefix is not None:
            self._begun = [begun for begun in self.beginnings(tokens[::self.num_generations])
                           for _ in range(self.num_generations)]
            tokens = [prompt + begun for prompt, begun in zip(tokens, self._begun, strict=True)]
        return tokens, images, fields

    def beginnings(self, prompts: list[list[int]]) -> list[list[int]]:
        """The first tokens of an answer to each prompt, without one that would end it."""
        prefix = self.parts.prefix
        drawn = self.continued(prompts, prefix if isinstance(prefix, int) else self.generation_config.max_new_tokens)
        drawn = [answer[:-1] if answer and answer[-1] in self.eos_token_ids else answer for answer in drawn]
        return [opening_sentence(self.processing_class, answer) for answer in drawn] if prefix == "sentence" else drawn

    def continued(self, rows: list[list[int]], most: int) -> list[list[int]]:
        """What the policy adds to each row of tokens, at most so many."""
        whole, self.generation_config.max_new_tokens = self.generation_config.max_new_tokens, most
        drawn, _ = self._generate_single_turn(rows, None, {}, 1)
        self.generation_config.max_new_tokens = whole
        return drawn

    def _generate(self, prompts):
        ids, answers, mask, completions, *rest = super()._generate(prompts)
        if self.parts.steps is not None:
            begun = self._begun or [[]] * len(ids)
            self._drawn = DrawnAnswers([talk[-1]["content"] for talk in prompts], [
                each[:len(each) - len(start)] for each, start in zip(ids, begun, strict=True)], begun, answers)
        if self._begun:  # rewards see whole answers; what is learnt is what differs
            texts = self.processing_class.batch_decode(
                [begun + answer for begun, answer in zip(self._begun, answers, strict=True)], skip_special_tokens=True)
            completions = [[{"role": "assistant", "content": text}] for text in texts]
        return ids, answers, mask, completions, *rest

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        scored = self.parts.scorer.scored()
        found, credited = self.advantages_of(scored, batch), None
        rank, device = self.accelerator.process_index, self.accelerator.device
        mine = slice(rank * len(inputs), (rank + 1) * len(inputs))
        if self.parts.steps is not None:
            found, credited = self.with_steps(self.parts.steps, found, mine, batch["completion_ids"].size(1))
        self._note(scored, found, credited)
        advantages = torch.where(found.trained, found.advantages, 0.0).float()[mine]
        if credited is not None:
            advantages = advantages[:, None] + credited.tokens
        batch["advantages"] = advantages.to(device)
        if self.parts.objective.compares:
            level, kept = self.compared(scored, found)
            batch |= {"group": scored.groups[mine].to(device), "kept": kept[mine].to(device)}
            batch |= {} if level is None else {"level": level[mine].to(device)}
        return batch

    def advantages_of(self, scored: ScoredAnswers, batch: dict[str, Tensor]) -> Advantages:
        """By the recipe's rule, of the answers of all processes. Raises UserError for rewards that it cannot take."""
        reward_set = self.parts.scorer.reward_set
        likelihood = self.likelihood_of(batch) if self.parts.rule.unlikeliness else None
        if self.history is not None:
            self.history.add(scored.prompts, self.parts.scorer.total(scored).tolist())
        try:
            return self.parts.rule(scored.rewards, reward_set.weights, scored.groups, reward_set.names, likelihood,
                                   self.history)
        except ValueError as error:
            raise UserError(f"advantage: {error}") from None

    def with_steps(self, steps: StepCredit, found: Advantages, mine: slice, width: int
                   ) -> tuple[Advantages, CreditedAnswers]:
        """The credit of this process's answers, padded to `width` tokens, and the advantages with all answers that have
        some among those that are learnt from; an answer without a score has none."""
        credited = steps.of(self._drawn, self.continued, width)
        credited.tokens[found.advantages[mine].isnan()] = 0.0
        moved = self.parts.scorer.processes.gather(credited.tokens.ne(0).any(1).tolist())
        return found._replace(trained=found.trained | torch.tensor(moved)), credited

    @torch.no_grad()
    def likelihood_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean log-probability of an answer's tokens under the policy that drew it, float64 [n] of all processes."""
        log_probs = batch.get("old_per_token_logps")
        if log_probs is None:
            with _peft.disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                log_probs, _, _ = self._get_per_token_logps_and_entropies(
                    self.model, *whole_rows(batch), batch["completion_ids"].size(1),
                    batch_size=self.args.per_device_train_batch_size)
        side = TokenLogs(log_probs=log_probs.float(), mask=batch["completion_mask"].bool())
        return self.accelerator.gather(side.averaged(side.log_probs)).double().cpu()

    def compared(self, scored: ScoredAnswers, found: Advantages) -> tuple[Tensor | None, Tensor]:
        """Of all answers, for objectives that compare: their levels [n] where there are any, and which are learnt from,
        bool [n]: whole groups, of which everything is known."""
        names, levels = self.parts.scorer.reward_set.names, self.parts.levels
        kept = torch.zeros(len(scored.groups), dtype=torch.bool)
        if not levels:
            units = self.parts.objective.select(found.advantages, found.trained, scored.groups)
            kept[[i for unit in units for i in unit]] = True
            return None, kept
        columns = [names.index(name) for name in levels]
        level = levels_of(scored.rewards[:, columns], torch.tensor(list(levels.values())))
        for members in members_of(scored.groups):
            kept[members] = bool((level[members] > 0).all())
        return level, kept

    def _note(self, scored: ScoredAnswers, found: Advantages, credited: CreditedAnswers | None) -> None:
        parts = self.parts
        parts.notes.figures |= reward_figures(scored.rewards, scored.groups, parts.scorer.reward_set)
        parts.notes.figures |= advantage_figures(found, scored.rewards)
        parts.notes.figures["trained_answers"] = int(found.trained.sum())
        self.idle = 0 if found.trained.any() or parts.levels else self.idle + 1
        if self.idle >= parts.patience:
            raise UserError(f"rollout.patience {parts.patience}: in that many batches all answers to a prompt were "
                            "worth the same, so there was nothing to learn; take a higher rollout.temperature, a "
                            "larger rollout.group_size, or a reward that tells them apart")
        steps = None if credited is None else parts.scorer.processes.gather(credited.steps)
        write_own_answers(parts.run, self.state.global_step + 1, scored, parts.scorer.total(scored), found.advantages,
                          steps)

    def _prepare_inputs(self, generation_batch):
        if not self.parts.objective.compares:
            return super()._prepare_inputs(generation_batch)
        passes = self.args.steps_per_generation  # TRL would shuffle the answers, and groups would fall apart
        if self._step % passes == 0 or self._buffered_inputs is None:
            self._buffered_inputs = _utils.split_tensor_dict(self._generate_and_score_completions(generation_batch),
                                                             passes)
        return self._buffered_inputs[self._step % passes]

    def _get_per_token_logps_and_entropies(self, *given, **named):
        found = super()._get_per_token_logps_and_entropies(*given, **named)
        self._newest = found[0]
        return found

    def _compute_loss(self, model, inputs):
        if self.parts.objective.compares:
            return self.loss_of_groups(model, inputs)
        loss = super()._compute_loss(model, inputs)
        if "old_per_token_logps" in inputs:
            side = TokenLogs(log_probs=self._newest.detach() - inputs["old_per_token_logps"],
                             mask=inputs["completion_mask"].bool())
            ratio = side.log_probs.exp()
            self.parts.notes.keep({"ratio": side.averaged(ratio),
                                   "approx_kl": side.averaged(ratio - 1 - side.log_probs)})
        return loss

    def loss_of_groups(self, model, inputs: dict[str, Tensor]) -> Tensor:
        """The objective's loss of the groups of a pass; groups that are not learnt from count 0 in its mean."""
        kept, mask = inputs["kept"], inputs["completion_mask"].bool()
        log_probs, entropy, _ = self._get_per_token_logps_and_entropies(model, *whole_rows(inputs), mask.size(1),
                                                                        compute_entropy=True)
        self.parts.notes.keep({"entropy": TokenLogs(log_probs=entropy, mask=mask).averaged(entropy)})
        if not kept.any():
            return 0.0 * log_probs.sum()
        side = TokenLogs(log_probs=log_probs[kept], mask=mask[kept], ref_log_probs=inputs["ref_per_token_logps"][kept])
        level = inputs["level"][kept] if "level" in inputs else None
        outcome = self.parts.objective(AnswerTerms.of_side(side, inputs["advantages"][kept], inputs["group"][kept],
                                                           level))
        self.parts.notes.keep(outcome.metrics)
        return outcome.loss * kept.float().mean() / self.current_gradient_accumulation_steps

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's rewards and advantages are left out: they are not those that are learnt from."""
        found = {LOGGED[name]: fmean(values) for name, values in self._metrics["train"].items()
                 if name in LOGGED and values}
        if "truncated" in found:
            found["ended"] = 1 - found["truncated"]
        self._metrics["train"].clear()
        super(_grpo.GRPOTrainer, self).log(logs | found, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None in checkpoints; the exported model has one."""

    def _save_checkpoint(self, model, trial) -> None:
        if self.history is not None and self.accelerator.is_main_process:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / HISTORY, json.dumps(self.history.state_dict()).encode())
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.history is not None:
            self.history.load_state_dict(read_json(Path(resume_from_checkpoint) / HISTORY,
                                                   f"checkpoint {resume_from_checkpoint}"))


def opening_sentence(tokenizer, tokens: list[int]) -> list[int]:
    """The tokens up to where the first sentence or line of a text ends; none where none does."""
    for end in range(1, len(tokens) + 1):
        if tokenizer.decode(tokens[:end]).rstrip(" ").endswith((".", "!", "?", "\n")):
            return tokens[:end]
    return []


def whole_rows(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts and answers as one, and the mask of both, [B, L]."""
    return (torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1))


class OwnPasses:
    """A run on own answers as `own_kl` asks it: the policy and the reference on given answers."""

    def __init__(self, loop: GroupTrainer, pad_token_id: int):
        self.loop, self.accelerator, self.data_collator = loop, loop.accelerator, PairCollator(pad_token_id, ())

    @property
    def model(self):
        return self.loop.model

    def can_compare(self) -> bool:
        """Whether there is a reference: a copy, or an adapter to leave out."""
        return self.loop.ref_model is not None or hasattr(self.accelerator.unwrap_model(self.model), "disable_adapter")

    def compared(self, model, inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, Tensor], None, Tensor]:
        """(log_prob, ref_log_prob) [B] of a batch's answers and their mask [B, L-1]."""
        mask = inputs["completion_mask"][:, 1:].bool()

        def summed(network) -> Tensor:
            found = self.loop._get_per_token_logps_and_entropies(network, inputs["input_ids"], inputs["attention_mask"],
                                                                 mask.size(1))[0]
            return found.float().masked_fill(~mask, 0.0).sum(1)

        policy = summed(model)
        if self.loop.ref_model is not None:
            return (policy, summed(self.loop.ref_model)), None, mask
        with model.disable_adapter():
            return (policy, summed(model)), None, mask
