"""Which samples of a pipeline's calls belong to which branch of guidance, told while it samples."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from visalign.errors import UserError


@contextlib.contextmanager
def branches_told(networks: Iterable[nn.Module], count: int, wanted_place: int | None,
                  tell: Callable[[Tensor | float], None], who: str) -> Iterator[Callable[[], None]]:
    """Within it the networks are called by their pipeline, for `count` samples; gives what is to be called after each
    step.

    wanted_place: of the conditional prediction among the two of a step, be they in a call each or together; None where
    there is no guidance. tell: called before each call of a network, with 1 for each sample that is unconditional and
    else 0, [rows], or one number for all; with 0 at the end. Raises UserError, starting with `who`, for calls that are
    neither.
    """
    apart: list[int] = []  # places of the calls of this step that hold one of the two

    def before(network: nn.Module, arguments: tuple, named: dict) -> None:
        rows = _rows(network, arguments, named)
        if wanted_place is None and rows == count:
            tell(0.0)
        elif wanted_place is not None and rows == 2 * count:
            halves = torch.tensor([0.0, 1.0] if wanted_place == 0 else [1.0, 0.0])
            tell(halves.repeat_interleave(count))
        elif wanted_place is not None and rows == count and len(apart) < 2:
            tell(float(len(apart) != wanted_place))
            apart.append(len(apart))
        else:
            raise UserError(f"{who}: the pipeline calls its network for {rows} samples of {count}, which are not the "
                            + ("two branches of guidance" if wanted_place is not None else "samples alone"))

    def after_step() -> None:
        if len(apart) == 1:
            raise UserError(f"{who}: the pipeline leaves guidance out in some steps, so that its unconditional branch "
                            "is not known")
        apart.clear()

    handles = [network.register_forward_pre_hook(before, with_kwargs=True) for network in networks]
    try:
        yield after_step
    finally:
        for handle in handles:
            handle.remove()
        tell(0.0)


def _rows(network: nn.Module, arguments: tuple, named: dict) -> int:
    """Samples in this call of a network, by its first argument."""
    bound = inspect.signature(type(network).forward).bind(network, *arguments, **named).arguments
    return len(list(bound.values())[1])
