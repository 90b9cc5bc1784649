"""TRL's DPO trainer, opened once for every objective of this package: pairs of answers, or chosen answers alone.

What is TRL's: the loop, batches, the frozen reference, checkpoints. What is not: its losses and its tokenising.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visalign.language.chat import TokenRow
from visalign.language.checkpoints import read_beside, write_beside
from visalign.language.trl import import_trl
from visalign.objectives.base import Outcome
from visalign.objectives.language import LanguageObjective, PairLogs, TokenLogs
from visalign.objectives.links import LabelTable
from visalign.objectives.srpo import REVISIONS
from visalign.trainers.flips import LearntFlips

_dpo = import_trl("trl.trainer.dpo_trainer")
_peft = import_trl("trl.models.utils")

HEADS = "token_masks"
ROW_COLUMNS = ("row", "strength", "chance", "weight", "desirable")


class PairCollator:
    """Batches of rows (`chat.TokenRow`): the chosen sides, then the rejected ones where there are any, then the answers
    as revisions of earlier tries (REVISIONS, in that order) where rows have those, padded on the right; beside them the
    rows' numbers as float64 [B] under their own names."""

    def __init__(self, pad_token_id: int, columns: Sequence[str]):
        self.pad_token_id, self.columns = pad_token_id, tuple(columns)

    def __call__(self, rows: list[TokenRow]) -> dict[str, Tensor]:
        sides = [("prompt_ids", f"{side}_ids") for side in ("chosen", "rejected") if f"{side}_ids" in rows[0]]
        if "after_chosen_ids" in rows[0]:
            sides += [(f"after_{earlier}_ids", f"{answer}_ids") for answer, earlier in REVISIONS]
        whole = [(row[prompt], row[answer]) for prompt, answer in sides for row in rows]
        longest = max(len(prompt) + len(answer) for prompt, answer in whole)

        def padded(values: list[list[int]], fill: int) -> Tensor:
            return torch.tensor([each + [fill] * (longest - len(each)) for each in values])

        batch = {"input_ids": padded([prompt + answer for prompt, answer in whole], self.pad_token_id),
                 "attention_mask": padded([[1] * (len(prompt) + len(answer)) for prompt, answer in whole], 0),
                 "completion_mask": padded([[0] * len(prompt) + [1] * len(answer) for prompt, answer in whole], 0)}
        return batch | {name: torch.tensor([row[name] for row in rows], dtype=torch.float64)
                        for name in self.columns if name in rows[0]}


class PreferenceTrainer(_dpo.DPOTrainer):
    """objective: the loss of each batch. labels: the table of `dynamic_labels`, if any. teachers: frozen models by
    name. heads: what learns masks of tokens beside the model, if anything does. on_metrics: told of each batch's
    metrics {name: [B]}."""

    def __init__(self, *, objective: LanguageObjective, on_metrics: Callable[[dict[str, Tensor]], None],
                 labels: LabelTable | None = None, teachers: Mapping[str, Any] | None = None,
                 heads: nn.Module | None = None, **given: Any):
        self.objective, self.labels, self.on_metrics = objective, labels, on_metrics
        self.teachers = teachers or {}
        super().__init__(**given)
        self.flips = LearntFlips(objective, len(given["train_dataset"]), self.accelerator)
        self.heads = heads
        if heads is not None:
            self.model.add_module(HEADS, heads.to(self.accelerator.device))  # where the optimiser finds it

    def _prepare_dataset(self, dataset, *_):
        return dataset  # rows are tokens already (chat.py)

    def _precompute_ref_logps(self, dataset, *_):
        return dataset  # only asked for where no reference is needed, see `without_reference`

    def _compute_loss(self, model, inputs, return_outputs=False):
        logs = self.logs_of(model, inputs)
        outcome: Outcome = self.objective(logs)
        metrics = outcome.metrics | {"loss": outcome.loss.detach().expand(len(logs.chosen))}
        if self.model.training:
            self.flips.seen(outcome.loss)
            self.on_metrics(metrics | {name: torch.full_like(logs.chosen.detach(), rate)
                                       for name, rate in self.flips.after_step().items()})
            if self.labels is not None:
                self.labels.visited(inputs["row"].long().tolist(), outcome.metrics["margin"])
        return (outcome.loss, metrics) if return_outputs else outcome.loss

    def logs_of(self, model, inputs: Mapping[str, Tensor]) -> PairLogs:
        """Log-probabilities of a batch under the policy and, where the objective needs it, the reference."""
        needs, columns = self.objective.needs, self.columns_of(inputs)
        passed = {name: value for name, value in inputs.items() if name not in ("completion_mask", *columns)}
        mask = inputs["completion_mask"][:, 1:].bool()
        count = len(mask) // len(columns["row"])
        found = self.tokens_of(model, passed, mask, "distributions" in needs)
        if {"reference", "distributions", "hidden"} & needs:
            found |= self.reference_of(passed, mask, needs)
        if self.heads is not None:
            found["reward_mask"], found["kl_mask"] = self.heads(found["hidden"])
        taught = {name: self.logits_of(teacher, passed) for name, teacher in self.teachers.items()}
        sides = [TokenLogs(mask=part, **{name: value.chunk(count)[i] for name, value in found.items()},
                           teachers={name: value.chunk(count)[i] for name, value in taught.items()})
                 for i, part in enumerate(mask.chunk(count))]
        revisions = {f"{answer}_after_{earlier}": side.summed(side.log_ratios)
                     for (answer, earlier), side in zip(REVISIONS, sides[2:], strict=False)}
        own = {name: values.float() for name, values in columns.items()}
        more = {name: own[name] for name in ("strength", "chance", "weight") if name in own}
        if "desirable" in own:
            more["desirable"] = own["desirable"] > 0.5
        if self.labels is not None:
            more["label"] = self.labels.of(columns["row"].long().tolist()).to(mask.device)
        return PairLogs.of_sides(*sides[:2], revisions=revisions, across=self.across, **more,
                                 flip_logit=self.flips.logit,
                                 columns={name: own[name] for name in self.objective.columns},
                                 gaps={name: own[f"gap.{name}"] for name in self.objective.rewards})

    def can_compare(self) -> bool:
        """Whether there is a reference: a copy, or an adapter to leave out."""
        return self.ref_model is not None or hasattr(self.accelerator.unwrap_model(self.model), "disable_adapter")

    def compared(self, model, inputs: Mapping[str, Tensor]) -> tuple[tuple, tuple, Tensor]:
        """Of a batch (log_prob, ref_log_prob) [B] of the chosen answers and of the rejected ones (of the chosen again
        where there are none), by one arithmetic, and the mask [B, L-1] of the chosen ones."""
        columns = self.columns_of(inputs)
        passed = {name: value for name, value in inputs.items() if name not in ("completion_mask", *columns)}
        mask = inputs["completion_mask"][:, 1:].bool()
        size = len(columns["row"])
        found = self.tokens_of(model, passed, mask, False) | self.reference_of(passed, mask, frozenset())
        sums = [found[name].sum(1).split(size) for name in ("log_probs", "ref_log_probs")]
        chosen, *others = zip(*sums, strict=True)
        return chosen, others[0] if others else chosen, mask[:size]

    def chosen_logits(self, model, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the tokens of the chosen answers were predicted from, [B, L-1, V]; of images' batches, which are not
        divided, all are computed."""
        columns = self.columns_of(inputs)
        size = len(columns["row"])
        passed = {name: value for name, value in inputs.items() if name not in ("completion_mask", *columns)}
        if "pixel_values" not in passed:
            passed = {name: value[:size] for name, value in passed.items()}
        return self.logits_of(model, passed)[:size]

    def columns_of(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the collator put beside the tokens."""
        return {name: inputs[name] for name in self.data_collator.columns if name in inputs}

    def across(self, value: Tensor) -> Tensor:
        """Mean over the processes."""
        return self.accelerator.reduce(value, "mean")

    def tokens_of(self, model, passed: Mapping[str, Tensor], mask: Tensor, whole: bool) -> dict[str, Tensor]:
        """log_probs [N, L-1] float32, 0 outside of answers, and with `whole` logits [N, L-1, V]."""
        labels = passed["input_ids"].masked_fill(torch.nn.functional.pad(~mask, (1, 0), value=True), -100)
        if not whole:  # vision-language models and prompt tuning put tokens before: those at the end are the answer's
            out = model(**passed, use_cache=False, labels=labels, fused_lm_head=True)
            return {"log_probs": out.log_probs[:, -mask.shape[1]:].float()}
        logits = self.logits_of(model, passed)
        picked = logits.log_softmax(-1).gather(-1, passed["input_ids"][:, 1:, None])[..., 0]
        return {"log_probs": picked.masked_fill(~mask, 0.0), "logits": logits}

    def logits_of(self, model, passed: Mapping[str, Tensor]) -> Tensor:
        """What each token but the first was predicted from, [N, L-1, V] float32; a frozen model has no gradients."""
        frozen = model in self.teachers.values()
        with torch.no_grad() if frozen else contextlib.nullcontext():
            return model(**passed, use_cache=False).logits[:, :-1].float()

    @torch.no_grad()
    def reference_of(self, passed: Mapping[str, Tensor], mask: Tensor, needs: frozenset[str]) -> dict[str, Tensor]:
        """ref_log_probs, ref_logits and hidden of the frozen reference: a copy, or the model without its adapter."""
        whole = bool({"distributions", "hidden"} & needs)
        with _peft.disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if self.ref_model is not None:
                found = self._of_reference(self.ref_model, passed, mask, whole)
            else:
                with self.accelerator.unwrap_model(self.model).disable_adapter():
                    found = self._of_reference(self.model, passed, mask, whole)
        kept = {"ref_log_probs": True, "ref_logits": "distributions" in needs, "hidden": "hidden" in needs}
        return {name: value for name, value in found.items() if kept[name]}

    def _of_reference(self, model, passed: Mapping[str, Tensor], mask: Tensor, whole: bool) -> dict[str, Tensor]:
        if not whole:
            return {f"ref_{name}": value for name, value in self.tokens_of(model, passed, mask, False).items()}
        out = model(**passed, use_cache=False, output_hidden_states=True)
        logits = out.logits[:, :-1].float()
        picked = logits.log_softmax(-1).gather(-1, passed["input_ids"][:, 1:, None])[..., 0]
        return {"ref_log_probs": picked.masked_fill(~mask, 0.0), "ref_logits": logits,
                "hidden": torch.stack(out.hidden_states, 2)[:, :-1]}

    def _save_checkpoint(self, model, trial):
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            write_beside(folder, self.beside())
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        kept = read_beside(Path(resume_from_checkpoint), bool(self.beside()))
        if self.labels is not None:
            self.labels.load_state_dict(kept)
        for flips in self.flips.kept.values():
            flips.load_state_dict(kept)
        if self.heads is not None:
            self.heads.load_state_dict({name.removeprefix(f"{HEADS}."): value for name, value in kept.items()
                                        if name.startswith(f"{HEADS}.")})

    def beside(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the model's weights."""
        kept = dict(self.labels.state_dict()) if self.labels is not None else {}
        for flips in self.flips.kept.values():
            kept |= flips.state_dict()
        return kept | {f"{HEADS}.{name}": value for name, value in (
            self.heads.state_dict().items() if self.heads is not None else ())}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # TRL would add its own metrics, which only its own loss collects
        super(_dpo.DPOTrainer, self).log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None in checkpoints; the exported model has one."""
