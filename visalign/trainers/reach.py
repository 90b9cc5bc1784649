"""Whether gradients reach the trained tensors; checked once, after the first backward of a run.

A layer whose arithmetic has no derivative (int8 with dynamic activations, a detach in a patched module) silently leaves
its adapter as it started, with a falling loss. A matrix with a zero gradient has been reached: a
LoRA's first matrix has one while its second is 0.
"""

import re
from collections.abc import Callable, Iterable

from torch import nn

from visalign.errors import UserError
from visalign.storage.weights import some


class GradientReach:
    """named: trained tensors by name. unused: regular expressions of names that the model itself never uses.

    apart: prefixes of names of networks of which a batch may use only some, such as experts for parts of the noise
    range; those not used yet are checked when they are. idle: whether the model's output is the same whatever the
    layers of these tensors give out; asked only where a gradient is missing.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], unused: Iterable[str] = (),
                 apart: Iterable[str] = (), idle: Callable[[list[str]], bool] = lambda names: False):
        self._idle = idle
        self._unused = tuple(unused)
        self._groups: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in named:
            group = next((start for start in apart if name.startswith(start)), "")
            self._groups.setdefault(group, []).append((name, parameter))
        self._all = sum(map(len, self._groups.values()))

    def check(self, reached: Callable[[nn.Parameter], bool] = lambda parameter: parameter.grad is not None) -> None:
        """Check each used network once; to be called after a backward, while it is known which gradients there were.

        Raises UserError naming the tensors that no gradient reached.
        """
        for group, members in list(self._groups.items()):
            missed = [name for name, parameter in members if not reached(parameter)]
            if len(missed) == len(members) and (group or len(self._groups) > 1):
                continue
            del self._groups[group]
            missed = [name for name in missed if not any(re.search(pattern, name) for pattern in self._unused)]
            if missed and not self._idle(missed):
                raise UserError(f"training: no gradient reaches {len(missed)} of {self._all} trainable tensors: "
                                f"{some(missed)}; a layer after them has no derivative (quantised arithmetic, a "
                                "patched module), or the loss does not use them: change model.lora.targets or the "
                                "precision")
