"""Pairs that a model is sure of: Monte Carlo dropout on what it has learnt (UPO, arXiv 2409.11212, by its abstract
alone).

    z_m = (lp_m(w) - lp_ref(w)) - (lp_m(l) - lp_ref(l)),  m = 1 ... M,  in nats
    kept: mean_m z_m > 0, and std_m z_m (divided by M - 1) among the lowest

Differs from the paper, which trains an estimator of its own: here the model's implicit reward is the estimator.
Dropout sits where LoRA has it, on what enters the learnt difference of a linear layer: W_ref x + (W - W_ref) drop(x).
So it needs no adapter (the models of rounds are merged), equals peft's `lora_dropout` where there is one, and z of a
model that is its own reference is 0 in every pass. What differs beside linear layers (norms, embeddings of a full
fine-tune) has no dropout. A long answer has more tokens to be unsure of, so its std is larger.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from visalign.config import RewardSpec
from visalign.config.language_feedback import UncertaintySettings
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError, notice
from visalign.evaluators.risk_coverage import risk_coverage
from visalign.language.chat import TokenRow, encode_pair
from visalign.language.diagnostics import BATCH
from visalign.language.held_out import label_agreements
from visalign.parallel.sharing import doing
from visalign.reports.uncertainty import UNCERTAINTY
from visalign.rewards.text.likelihood import rows_log_probs
from visalign.sampling.seeds import place_seed
from visalign.storage.files import write_atomically
from visalign.storage.language_models import LanguageModel, locate_language_model

_KEY = "data.feedback.uncertainty"


class PairMargins(NamedTuple):
    """Of each pair, over the passes: mean of z and its standard deviation, float64 [N], in nats."""

    mean: np.ndarray
    std: np.ndarray


def check_uncertainty(settings: UncertaintySettings, source: str) -> None:
    """Raise UserError for a reference that nobody knows, or that is the model itself, of this source."""
    if "{" in settings.reference:
        raise UserError(f"{_KEY}.reference {settings.reference}: names a model of `lm rounds`; in a single run name "
                        "the model that the current one was trained from")
    if settings.reference == source:
        raise UserError(f"{_KEY}.reference {settings.reference}: is the model itself, so z is 0 and no pair is surer "
                        "than another; name the model that it was trained from")
    locate_language_model(settings.reference, f"{_KEY}.reference")


def uncertainty_of_round(settings: UncertaintySettings | None, number: int, reference: str,
                         current: str) -> UncertaintySettings | None:
    """The settings of a round with its reference, a model's source; None, with a notice, where that is the round's own
    model, which has learnt nothing yet that it could be sure of."""
    if settings is None:
        return None
    if reference == current:
        notice(f"{_KEY}: the model of round {number} is the reference {settings.reference} itself, so z is 0 and all "
               "pairs of this round are kept")
        return None
    return settings.model_copy(update={"reference": reference})


@dataclass(frozen=True)
class PairDoubts:
    """Which pairs a model is sure of. seed: of dropout. system: text of the system's turn. measures: the reward by
    which labels may err, None where it is the one that made them."""

    settings: UncertaintySettings
    seed: int = 0
    system: str | None = None
    measures: RewardSpec | None = None

    def sure_pairs(self, pairs: list[TextPair], model: LanguageModel, reference: Any, folder: Path) -> list[TextPair]:
        """The pairs that are kept; what all came to is left in the run's folder. Raises UserError when none is, and for
        answers that are not compared."""
        if any(pair.rejected is None for pair in pairs):
            raise UserError(f"{_KEY}: is of pairs, and these are answers to imitate; leave it out")
        margins = self.margins(pairs, model, reference)
        if not margins.mean.any() and not margins.std.any():
            raise UserError(f"{_KEY}.reference {self.settings.reference}: makes every answer as likely as the model "
                            "does, so z is 0 and no pair is surer than another")
        kept = kept_of(margins, self.settings)
        errors = np.full(len(pairs), np.nan) if self.measures is None else (
            1 - label_agreements(pairs, self.measures, str(model.model.device)).double().numpy())
        found = self.summary(pairs, margins, kept, errors)
        write_atomically(folder / UNCERTAINTY, (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode(
            "utf-8", "backslashreplace"))
        notice(f"{_KEY}: {found['words']}")
        if not kept.any():
            raise UserError(f"{_KEY}: none of {len(pairs)} pairs is left; raise max_std, or ask for more answers with "
                            "data.feedback.samples_per_prompt")
        return [pair for pair, sure in zip(pairs, kept, strict=True) if sure]

    def margins(self, pairs: Sequence[TextPair], model: LanguageModel, reference: Any) -> PairMargins:
        """Mean and deviation of z over passes with dropout; the reference is read once, without."""
        rows = [encode_pair(model.tokenizer, pair, i, self.system) for i, pair in enumerate(pairs)]
        before = preferred(replace(model, model=reference), rows)
        device, passes = model.model.device, []
        with (torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
              dropout_on_difference(model.model, reference, self.settings.dropout)):
            for number in range(self.settings.passes):
                torch.manual_seed(place_seed(self.seed, number))
                passes.append(preferred(model, rows) - before)
                doing(f"pass {number + 1} of {self.settings.passes} with dropout")
        z = torch.stack(passes).double()
        return PairMargins(z.mean(0).numpy(), z.std(0).numpy())

    def summary(self, pairs: Sequence[TextPair], margins: PairMargins, kept: np.ndarray,
                errors: np.ndarray) -> dict[str, Any]:
        """What is written and shown: numbers of every pair, and how often labels err by how many are kept.

        errors: of each label, 0, 1 or 1/2, float64 [N], NaN where it is not known.
        """
        known, agreeing = np.isfinite(errors), int((margins.mean > 0).sum())
        curve = risk_coverage(errors[known], doubts_of(margins)[known])._asdict() if known.any() else None
        words = (f"{kept.sum()} of {len(pairs)} pairs are kept; of {len(pairs) - agreeing} the model does not prefer "
                 f"the chosen answer, and of {agreeing - kept.sum()} it is not sure enough")
        if curve:
            words += f"; label errors by {self.measures}: {errors[known].mean():.3f} of all"
            words += f", {errors[known & kept].mean():.3f} of those kept" * bool((known & kept).any())
        rows = [{"prompt": pair.prompt, "mean": mean, "std": std, "kept": sure,
                 "error": error if math.isfinite(error) else None} for pair, mean, std, sure, error in zip(
                     pairs, margins.mean.tolist(), margins.std.tolist(), kept.tolist(), errors.tolist(), strict=True)]
        return {"words": words, "kept": int(kept.sum()), "of": len(pairs), "agreeing": agreeing,
                "reference": self.settings.reference, "passes": self.settings.passes,
                "dropout": self.settings.dropout, "measured_by": str(self.measures) if self.measures else None,
                "curve": curve, "pairs": rows}


def preferred(model: LanguageModel, rows: Sequence[TokenRow]) -> Tensor:
    """lp(w) - lp(l) of pairs of tokens, float32 [N]."""
    found = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start:start + BATCH]
        sums, _ = rows_log_probs(model, [(row["prompt_ids"], row[side]) for side in ("chosen_ids", "rejected_ids")
                                         for row in batch])
        found.append(sums[:len(batch)] - sums[len(batch):])
    return torch.cat(found)


@contextlib.contextmanager
def dropout_on_difference(model: nn.Module, reference: nn.Module, share: float) -> Iterator[None]:
    """A context in which each linear layer is W_ref x + (W - W_ref) drop(x), the head apart, as with LoRA on all linear
    layers. Raises UserError for a reference with other layers."""
    others = {name: layer for name, layer in reference.named_modules() if isinstance(layer, nn.Linear)}
    mine = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if {name: layer.weight.shape for name, layer in mine.items()} != {
            name: layer.weight.shape for name, layer in others.items()}:
        raise UserError(f"{_KEY}.reference: has other layers than the model, so what was learnt between them cannot "
                        "be told; name the model that the current one was trained from")
    head = model.get_output_embeddings()

    def dropped(learnt: nn.Linear, given: tuple, output: Tensor, start: nn.Linear) -> Tensor:
        x = given[0]
        return output + nn.functional.linear(nn.functional.dropout(x, share) - x, learnt.weight - start.weight)

    hooks = []
    for name, layer in mine.items():
        if layer is not head and not torch.equal(layer.weight, others[name].weight):
            hooks.append(layer.register_forward_hook(
                lambda learnt, given, output, start=others[name]: dropped(learnt, given, output, start)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def kept_of(margins: PairMargins, settings: UncertaintySettings) -> np.ndarray:
    """Whether each pair is kept, bool [N]."""
    agreeing = np.flatnonzero(margins.mean > 0)
    order = agreeing[np.argsort(margins.std[agreeing], kind="stable")]
    sure = order[:math.ceil(settings.keep * len(order))]
    kept = np.zeros(len(margins.mean), bool)
    kept[sure] = True
    return kept & (margins.std <= (settings.max_std or math.inf))


def doubts_of(margins: PairMargins) -> np.ndarray:
    """Ranks from the surest pair to the one whose label the model most surely contradicts: those of mean z above 0 by
    rising deviation, then the others by falling."""
    against = margins.mean <= 0
    order = np.lexsort((np.where(against, -margins.std, margins.std), against))
    ranks = np.empty(len(order), int)
    ranks[order] = np.arange(len(order))
    return ranks
