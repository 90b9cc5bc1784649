"""A negative adapter: guidance leads away from what it predicts (Diffusion-NPO, Wang et al. 2025, arXiv 2505.11245).

    v = v_neg + w (v_pos - v_neg),      weights of v_neg: theta_neg + (1 - m) (theta_pos - theta_base)

theta_neg is the base with the negative adapter, theta_pos the base with the LoRAs that were loaded to sample, so with
the offsets D: v_pos has base + D_pos, v_neg has base + (1 - m) D_pos + D_neg. m = 0: the adapter is put on top of the
positive model, and one that is 0 leaves plain guidance. m = 1: the two branches have nothing but the base in common.

Both branches stay in one pass of the network where the pipeline has them there: of a LoRA's product each sample gets
its own branch's share, so a share of 0 or 1 leaves all other bits as they were.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.lora.adapters import HELD, START, tuner_layers
from visalign.generators.lora.layers import LYCORIS, Layers, one_kind
from visalign.generators.observe.branches import branches_told

NEGATIVE = "negative"
"""The adapter's name on a network."""


def check_negative(found: dict[str, Layers], where: str) -> None:
    """Raise UserError, starting with `where`, for layers that cannot belong to one branch of guidance alone."""
    texts = sorted(name for name in found if name.startswith("text_encoder"))
    if texts:
        raise UserError(f"{where}: changes {', '.join(texts)} too, whose embeddings both branches of guidance share; a "
                        "negative adapter may change the denoiser alone")
    kind = one_kind((each for layers in found.values() for each in layers.values()), where)
    if kind != "lora":
        raise UserError(f"{where}: is a {kind}, and only a plain LoRA can be a negative adapter, since its product is "
                        "added for some samples of a pass only")


def check_beside(kind: str, less: float, where: str) -> None:
    """Raise UserError, starting with `where`, where a negative adapter cannot go with a positive one of this kind."""
    if kind in LYCORIS:
        raise UserError(f"{where}: cannot be added to a {kind}, which the model has already; only to LoRAs and DoRAs")
    if less and kind != "lora":
        raise UserError(f"{where}: only of a plain LoRA can a part be taken off in one branch of guidance, and the "
                        f"model has a {kind}; leave the negative scale at 0")


class NegativeBranch:
    """Gives every sample of a pass the adapters of its branch, on networks that have NEGATIVE on.

    less: m above, how much of the LoRAs loaded to sample the unconditional branch is without. Nothing is unconditional
    until `predicting` or `sampling` says so.
    """

    def __init__(self, networks: Iterable[nn.Module], less: float = 0.0):
        self._networks, self._less = list(networks), less
        self._unconditional: Tensor | float = 0.0  # 1 for each sample of the pass that is: [B], or of all of them
        self._shaped: dict[tuple[int, int], Tensor] = {}
        self._restore: list[Callable[[], None]] = []
        self._follow_all()

    def _follow_all(self) -> None:
        for network in self._networks:
            for _, layer in tuner_layers(network):
                shares = {name: (0.0, 1.0) if name == NEGATIVE else (1.0, 1.0 - self._less) for name in layer.scaling
                          if name == NEGATIVE or (self._less and name not in (HELD, START))}
                self._follow(layer, {name: (layer.scaling[name], *share) for name, share in shares.items()})

    def _follow(self, layer: nn.Module, shares: dict[str, tuple[float, float, float]]) -> None:
        """shares: by adapter its scale, and how much of it the wanted and the unconditional samples get."""
        def scale(module, arguments):
            unconditional = self._like(arguments[0])
            for name, (own, wanted, other) in shares.items():
                layer.scaling[name] = own * (wanted + (other - wanted) * unconditional)

        handle = layer.register_forward_pre_hook(scale)

        def restore() -> None:
            handle.remove()
            layer.scaling.update({name: own for name, (own, *_) in shares.items() if name in layer.scaling})

        self._restore.append(restore)

    def _like(self, given: Tensor) -> Tensor | float:
        """Which samples are unconditional, in the shape of a layer's input: [B x parts, 1, ...]."""
        if not isinstance(self._unconditional, Tensor):
            return self._unconditional
        rows, key = len(self._unconditional), (len(given), given.ndim)
        if key not in self._shaped:
            if len(given) % rows:
                raise UserError(f"negative adapter: a layer of this model takes {len(given)} rows for {rows} samples, "
                                "so it is not known which belong to the unconditional branch")
            each = self._unconditional.repeat_interleave(len(given) // rows)
            self._shaped[key] = each.view(-1, *[1] * (given.ndim - 1)).to(given.device)
        return self._shaped[key]

    def _set(self, unconditional: Tensor | float) -> None:
        self._unconditional = unconditional
        self._shaped.clear()

    def remove(self) -> None:
        """Leave the adapters as they were."""
        for restore in self._restore:
            restore()
        self._restore.clear()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Within it the adapters' scales may be changed; what they are then is what each branch gets its share of."""
        self.remove()
        try:
            yield
        finally:
            self._follow_all()

    @contextlib.contextmanager
    def predicting(self) -> Iterator[None]:
        """Within it every sample is of the unconditional branch."""
        self._set(1.0)
        try:
            yield
        finally:
            self._set(0.0)

    def sampling(self, count: int, wanted_place: int) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Within it the networks are called by their pipeline, for `count` samples: see `branches_told`."""
        return branches_told(self._networks, count, wanted_place, self._set, "negative adapter")
