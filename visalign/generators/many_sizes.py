"""One generator at several heights and widths: the same networks, and at each size what was observed of it there."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.generators.observe.arguments import same
from visalign.generators.observe.calling import EXAMPLE, LONGER, PipelineCall
from visalign.generators.observe.memory import remembered
from visalign.generators.shape import Shape
from visalign.media.fitting import Size

_OF_SIZE = ("shape", "call", "conventions", "replay", "encoder", "size_row", "by_size")


class UnusableSize(UserError):
    """A pipeline cannot work at a size, whatever the sample."""

    def __init__(self, size: Size, reason: UserError):
        super().__init__(f"data.buckets: the size {size[0]}x{size[1]} cannot be used ({reason}); narrow the sizes with "
                         "data.buckets.min and data.buckets.max")


class ManySizes:
    """The part of a generator that works at other sizes than its own.

    told_fit: arguments of the network that say how an image was fitted, as parts of `Fitting.numbers`. For the size at
    work: size_row is what of every prompt's conditioning depends on the size alone, {} at the generator's own;
    by_size says whether a prompt has to be encoded at it.
    """

    told_fit: ClassVar[dict[str, slice]] = {}
    blank_prompt: ClassVar[str | None]
    sources: ClassVar[Any]
    pipeline: Any
    shape: Shape
    call: PipelineCall
    size_row: dict[str, Tensor] = {}
    by_size: bool = False
    _sizes: dict[Size, dict[str, Any]] | None = None

    @contextlib.contextmanager
    def working_at(self, size: Size | None) -> Iterator[None]:
        """In this context samples have another height and width; None changes nothing.

        At its first use the pipeline is observed at this size. Raises UnusableSize where it cannot work at it.
        """
        if size in (None, self.shape.size):
            yield
            return
        before = self._at_work()
        self._sizes = {} if self._sizes is None else self._sizes
        try:
            if size not in self._sizes:
                self._observe_at(size)
                self._sizes[size] = self._at_work()
            vars(self).update(self._sizes[size])
            yield
        finally:
            vars(self).update(before)

    def check_size(self, size: Size) -> Shape:
        """The generator's shape with another height and width. Raises UnusableSize for an impossible one."""
        try:
            return self.check_shape(dataclasses.replace(self.shape, height=size[0], width=size[1]))
        except UserError as error:
            raise UnusableSize(size, error) from None

    def _at_work(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OF_SIZE}

    def _observe_at(self, size: Size) -> None:
        own, self.shape = self.encoder, self.check_size(size)
        try:
            self.call = dataclasses.replace(self.call, shape=self.shape, blank=self.blank_prompt, guidance=None, off={})
            with remembered(self.pipeline, self.networks()):
                self.observe()
                self.size_row, self.by_size = self._differing(own)
        except UserError as error:
            raise UnusableSize(size, error) from None

    def _differing(self, own: Any) -> tuple[dict[str, Tensor], bool]:
        """(size_row, by_size), from two examples and what the generator's own `encoder` makes of them."""
        if self.sources is not None:
            return {}, True
        found = []
        with self.arithmetic():
            for prompt in (EXAMPLE, LONGER):
                here, there = self.encoder.wanted(prompt), own.wanted(prompt)
                found.append({name: value for name, value in here.items() if not same(value, there.get(name))})
        return (found[0], False) if same(*found) else ({}, True)

    def for_size(self, conditioning: dict[str, Tensor], fits: Tensor | None = None) -> dict[str, Tensor]:
        """Conditioning [B, ...] that was encoded at the generator's own size, for samples of the one at work.

        fits: `Fitting.numbers` of each sample [B, 6]; None for images that the pipeline itself would make.
        """
        first = next(iter(conditioning.values()))
        by_size = {name: value.to(first.device).expand(len(first), *value.shape)
                   for name, value in self.size_row.items()}
        told = {} if fits is None else {name: fits[:, part].to(first.device, torch.float32)
                                        for name, part in self.told_fit.items()}
        return conditioning | by_size | told
