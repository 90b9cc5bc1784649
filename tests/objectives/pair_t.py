"""One pair for every hand-worked number of a language model's losses, and the images' errors with the same margin."""

import torch

from visalign.objectives import PairErrors
from visalign.objectives.language import PairLogs

CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = -12.0, -10.0, -13.0, -9.0
"""rho_w = 1, rho_l = -1, h = 2; with beta 0.1, z = 0.2 and -log s(z) = 0.598139."""


def tensor(value, learnt: bool = False) -> torch.Tensor:
    """[1]; a tensor stays as it is."""
    if isinstance(value, torch.Tensor):
        return value
    return torch.tensor([value], dtype=torch.float32, requires_grad=learnt)


def logs(chosen=CHOSEN, rejected=REJECTED, ref_chosen=REF_CHOSEN, ref_rejected=REF_REJECTED, **more) -> PairLogs:
    """Answers of 4 and 8 tokens."""
    return PairLogs(**dict(
        chosen=tensor(chosen, True), rejected=tensor(rejected, True), ref_chosen=tensor(ref_chosen),
        ref_rejected=tensor(ref_rejected), chosen_tokens=tensor(4), rejected_tokens=tensor(8),
        strength=tensor(1)) | more)


def errors(**more) -> PairErrors:
    """E_w = 12 and E_l = 10 as -lp; references 14 and 8, so that -(1/2)(E - E_ref) is 1 and -1 as rho."""
    return PairErrors(**dict(chosen=tensor(12, True), noise_fraction=tensor(0.5), strength=tensor(1),
                             rejected=tensor(10, True), ref_chosen=tensor(14), ref_rejected=tensor(8)) | more)
