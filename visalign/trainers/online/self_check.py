"""Before the first update the policy is the one that sampled, so every ratio must be 1."""

import torch

from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.trainers.offline.encoded_pairs import first_not_finite
from visalign.trainers.online.views import MicroBatch, StepView

RATIO_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Largest |log ratio| by compute type; rounding differs with the batch a sample is in."""


@torch.no_grad()
def check_ratio(view: StepView, batch: MicroBatch, generator: Generator) -> float:
    """The largest |log ratio| of one micro-batch. Raises UserError with the likely cause when it is not about 0."""
    worst, where = 0.0, 0
    for term in range(view.terms):
        terms, steps = view.build(batch, term)
        off = (terms.log_prob - terms.old_log_prob).abs()
        off = torch.where(off.isnan(), torch.inf, off)
        if off.max().item() >= worst:
            worst, where = off.max().item(), int(steps[off.argmax().cpu()])
    weight = first_not_finite(generator.denoiser) if worst == torch.inf else None
    if weight:
        raise UserError(f"self-check: the model's own weights are not finite ({weight} first), before anything was "
                        "learnt; load other weights")
    allowed = RATIO_TOLERANCE[generator.compute_dtype]
    if worst > allowed:
        raise UserError(f"self-check: before the first update the ratio at sampling step {where} is off by "
                        f"{worst:.2g} in its logarithm (allowed {allowed:g}), so sampling and training are not the "
                        f"same policy; {_cause(view, batch, generator, allowed)}")
    return worst


def _cause(view: StepView, batch: MicroBatch, generator: Generator, allowed: float) -> str:
    """Try what usually differs, one thing at a time."""
    if any(module.training for module in generator.denoiser.modules() if isinstance(module, torch.nn.Dropout)):
        return "the network is in training mode, so dropout is on in one of them"
    exact, generator.compute_dtype = generator.compute_dtype, torch.float32
    try:
        terms, _ = view.build(batch, 0)
        close = (terms.log_prob - terms.old_log_prob).abs().max().item() <= allowed
    finally:
        generator.compute_dtype = exact
    if close:
        return f"the arithmetic ({str(exact).removeprefix('torch.')}) is too coarse here, try model.precision=fp32"
    return ("likely causes: guidance or prompt embeddings differ between the two, averaged weights were not put back, "
            "or a kernel gives other results for other batch sizes (make train.batch_size equal rollout.batch_size)")
