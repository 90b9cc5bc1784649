"""TRL's DPO trainer, opened once for every objective of this package: pairs of answers, or chosen answers alone.

What is TRL's: the loop, batches, the frozen reference, checkpoints. What is not: its losses and its tokenising.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from visalign.language.chat import TokenRow
from visalign.language.trl import import_trl
from visalign.objectives.base import Outcome
from visalign.objectives.language import LanguageObjective, PairLogs, TokenLogs
from visalign.objectives.links import LabelTable

_dpo = import_trl("trl.trainer.dpo_trainer")
_peft = import_trl("trl.models.utils")

ROW_COLUMNS = ("row", "strength", "chance", "weight", "desirable")


class PairCollator:
    """Batches of rows (`chat.TokenRow`): the chosen sides, then the rejected ones where there are any, padded on the
    right; beside them the rows' numbers as float64 [B] under their own names."""

    def __init__(self, pad_token_id: int, columns: Sequence[str]):
        self.pad_token_id, self.columns = pad_token_id, tuple(columns)

    def __call__(self, rows: list[TokenRow]) -> dict[str, Tensor]:
        sides = ["chosen_ids"] + ["rejected_ids"] * ("rejected_ids" in rows[0])
        whole = [(row["prompt_ids"], row[side]) for side in sides for row in rows]
        longest = max(len(prompt) + len(answer) for prompt, answer in whole)

        def padded(values: list[list[int]], fill: int) -> Tensor:
            return torch.tensor([each + [fill] * (longest - len(each)) for each in values])

        batch = {"input_ids": padded([prompt + answer for prompt, answer in whole], self.pad_token_id),
                 "attention_mask": padded([[1] * (len(prompt) + len(answer)) for prompt, answer in whole], 0),
                 "completion_mask": padded([[0] * len(prompt) + [1] * len(answer) for prompt, answer in whole], 0)}
        return batch | {name: torch.tensor([row[name] for row in rows], dtype=torch.float64)
                        for name in self.columns if name in rows[0]}


class PreferenceTrainer(_dpo.DPOTrainer):
    """objective: the loss of each batch. labels: the table of `dynamic_labels`, if any. on_metrics: told of each
    batch's metrics {name: [B]}."""

    def __init__(self, *, objective: LanguageObjective, on_metrics: Callable[[dict[str, Tensor]], None],
                 labels: LabelTable | None = None, **given: Any):
        self.objective, self.labels, self.on_metrics = objective, labels, on_metrics
        super().__init__(**given)

    def _prepare_dataset(self, dataset, *_):
        return dataset  # rows are tokens already (chat.py)

    def _precompute_ref_logps(self, dataset, *_):
        return dataset  # only asked for where no reference is needed, see `without_reference`

    def _compute_loss(self, model, inputs, return_outputs=False):
        logs = self.logs_of(model, inputs)
        outcome: Outcome = self.objective(logs)
        metrics = outcome.metrics | {"loss": outcome.loss.detach().expand(len(logs.chosen))}
        if self.model.training:
            self.on_metrics(metrics)
            if self.labels is not None:
                self.labels.visited(inputs["row"].long().tolist(), outcome.metrics["margin"])
        return (outcome.loss, metrics) if return_outputs else outcome.loss

    def logs_of(self, model, inputs: Mapping[str, Tensor]) -> PairLogs:
        """Log-probabilities of a batch under the policy and, where the objective needs it, the reference."""
        needs, columns = self.objective.needs, self.columns_of(inputs)
        passed = {name: value for name, value in inputs.items() if name not in ("completion_mask", *columns)}
        mask = inputs["completion_mask"][:, 1:].bool()
        count = len(mask) // len(columns["row"]) if "row" in columns else 1
        chosen = self.tokens_of(model, passed, mask, "distributions" in needs)
        if {"reference", "distributions"} & needs:
            reference = self.reference_of(passed, mask, "distributions" in needs)
            chosen = chosen | {f"ref_{name}": value for name, value in reference.items()}
        sides = [TokenLogs(mask=part, **{name: value.chunk(count)[i] for name, value in chosen.items()})
                 for i, part in enumerate(mask.chunk(count))]
        own = {name: values.float() for name, values in columns.items()}
        label = {"label": self.labels.of(columns["row"].long().tolist()).to(mask.device)} if self.labels else {}
        return PairLogs.of_sides(*sides, **{name: own[name] for name in ("strength", "chance", "weight")
                                            if name in own},
                                 **({"desirable": own["desirable"] > 0.5} if "desirable" in own else {}),
                                 columns={name: own[name] for name in self.objective.columns},
                                 gaps={name: own[f"gap.{name}"] for name in self.objective.rewards},
                                 across=self.across, **label)

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
        logits = model(**passed, use_cache=False).logits[:, :-1].float()
        picked = logits.log_softmax(-1).gather(-1, passed["input_ids"][:, 1:, None])[..., 0]
        return {"log_probs": picked.masked_fill(~mask, 0.0), "logits": logits}

    @torch.no_grad()
    def reference_of(self, passed: Mapping[str, Tensor], mask: Tensor, whole: bool) -> dict[str, Tensor]:
        """The same of the frozen reference: a copy, or the model without its adapter."""
        with _peft.disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if self.ref_model is not None:
                return self.tokens_of(self.ref_model, passed, mask, whole)
            with self.accelerator.unwrap_model(self.model).disable_adapter():
                return self.tokens_of(self.model, passed, mask, whole)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # TRL would add its own metrics, which only its own loss collects
        super(_dpo.DPOTrainer, self).log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None in checkpoints; the exported model has one."""
