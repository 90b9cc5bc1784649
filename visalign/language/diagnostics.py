"""What is measured on held-out pairs and on own answers at each evaluation, beside rewards and diversity.

    likelihoods       shares of pairs: displaced, ranked, preferred by the implicit reward (evaluators/likelihood.py)
    top_entropy, top_mass   of held-out chosen answers; both falling is past the useful point
    entanglement      gradients of both answers' log-probabilities (evaluators/displacement.py)
    kl                of own answers to the reference, per answer and per token
"""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visalign.evaluators.displacement import ches, entanglement, entanglement_metrics, flat_gradient, likeliest
from visalign.evaluators.likelihood import likelihoods
from visalign.language.chat import TokenRow
from visalign.language.preference import PreferenceTrainer
from visalign.media.conversations import answer_tokens, prompt_tokens, turn_end, up_to_end, with_system
from visalign.media.samples import Sample
from visalign.parallel.sharing import Processes

BATCH, ENTANGLED = 8, 8
"""Rows at once, since their distributions are held whole; pairs whose gradients are compared."""


def on_device(loop: PreferenceTrainer, rows: Sequence[TokenRow]) -> dict[str, Tensor]:
    return {name: value.to(loop.accelerator.device) for name, value in loop.data_collator(list(rows)).items()}


def pair_numbers(loop: PreferenceTrainer, rows: list[TokenRow], processes: Processes) -> dict[str, Any]:
    """Of held-out pairs; processes share the batches. {} where there is no reference, or nothing, to compare with."""
    if not rows or not {"rejected", "rejected_ids"} & rows[0].keys() or not loop.can_compare():
        return {}
    model = loop.accelerator.unwrap_model(loop.model)
    batches = [rows[start:start + BATCH] for start in range(0, len(rows), BATCH)]

    def of(batch: list[TokenRow]) -> list[list[float]]:
        with torch.no_grad():
            inputs = on_device(loop, batch)
            chosen, rejected, mask = loop.compared(model, inputs)
            clocks = likeliest(loop.chosen_logits(model, inputs), mask)
        return torch.stack([*chosen, *rejected, *clocks]).double().cpu().tolist()

    training = model.training
    model.eval()
    found = processes.share(batches, of)
    entangled = [_entangled(loop, model, row) for row in rows[:ENTANGLED]] if processes.world == 1 else []
    model.train(training)
    columns = [np.array([value for part in found for value in part[i]]) for i in range(6)]
    measured = likelihoods(columns[0], columns[2], columns[1], columns[3], [row["prompt"] for row in rows])
    numbers = {"held_out/implicit_accuracy": measured.implicit.value, "likelihoods": asdict(measured),
               "held_out/top_entropy": columns[4].mean(), "held_out/top_mass": columns[5].mean(),
               "held_out/reference_gap": (columns[1] - columns[3]).tolist()}
    return numbers | entanglement_metrics(entangled)


def _entangled(loop: PreferenceTrainer, model, row: TokenRow):
    """Of one pair, on the weights that learn."""
    weights = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        logs = loop.logs_of(model, on_device(loop, [row]))
        return entanglement(flat_gradient(logs.chosen.sum(), weights, keep_graph=True),
                            flat_gradient(logs.rejected.sum(), weights))


def own_kl(loop: PreferenceTrainer, tokenizer, system: str | None, samples: Sequence[Sample],
           processes: Processes) -> dict[str, float]:
    """Mean of sum_t (log pi - log ref) over own answers, per answer and per token, in nats; {} without a reference.

    An estimate of KL(pi || ref), since the answers are drawn from pi at temperature 1; at others it is only alike.
    """
    if not loop.can_compare():
        return {}
    model = loop.accelerator.unwrap_model(loop.model)
    rows = []
    for number, sample in enumerate(samples):
        messages = with_system([{"role": "user", "content": sample.prompt}], system)
        prompt = prompt_tokens(tokenizer, messages)
        tokens, shared = answer_tokens(tokenizer, messages, prompt, str(sample.answer))
        tokens = up_to_end(prompt[shared:] + tokens, turn_end(tokenizer))
        rows.append({"prompt_ids": prompt[:shared], "chosen_ids": tokens[:-1] if len(tokens) > 1 else tokens,
                     "row": number})  # whether an answer ended by itself or was cut is not said, so its end is left out
    batches = [rows[start:start + BATCH] for start in range(0, len(rows), BATCH)]

    def of(batch: list[TokenRow]) -> list[tuple[float, int]]:
        with torch.no_grad():
            (policy, reference), _, mask = loop.compared(model, on_device(loop, batch))
        return list(zip((policy - reference).double().tolist(), mask.sum(1).tolist(), strict=True))

    training = model.training
    model.eval()
    found = [each for part in processes.share(batches, of) for each in part]
    model.train(training)
    return {"held_out/kl_per_answer": fmean(ratio for ratio, _ in found),
            "held_out/kl_per_token": sum(ratio for ratio, _ in found) / sum(tokens for _, tokens in found)}


@torch.no_grad()
def ches_of_rows(model, rows: Sequence[TokenRow], pad_token_id: int) -> list[float]:
    """CHES of pairs of tokens, by the model's last hidden states."""
    from visalign.language.preference import PairCollator

    collate, found = PairCollator(pad_token_id, ()), []
    for start in range(0, len(rows), BATCH):
        batch = {name: value.to(model.device) for name, value in collate(list(rows[start:start + BATCH])).items()}
        answer = batch.pop("completion_mask").bool()
        states = model(**batch, use_cache=False, output_hidden_states=True).hidden_states[-1][:, :-1]
        sides, masks = states.chunk(2), answer[:, 1:].chunk(2)  # states that predict a token of the answer
        found += ches(sides[0], masks[0], sides[1], masks[1]).tolist()
    return found
