"""Short calls of a pipeline whose network answers at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.observe.calling import EXAMPLE, PipelineCall
from visalign.generators.observe.watching import EnoughSeen, NetworkCall, Record, SchedulerStep, answered, watching


class ShortCalls:
    """Calls of one pipeline. off: options without guidance. template: an output of the network for so many rows."""

    def __init__(self, pipeline, networks: dict[str, nn.Module], call: PipelineCall, off: dict[str, float],
                 template: Any = None, template_rows: int = 1):
        self.pipeline, self.networks, self.call, self.off = pipeline, networks, call, off
        self.template, self.template_rows = template, template_rows
        self.prompt = EXAMPLE

    def run(self, prompts: list[str], options: dict | None = None, *, steps: int = 2, **watched) -> Record:
        """One call. options: of the guidance, else `off`."""
        told = self.call.told(self.off if options is None else options)
        arguments = self.call.options(prompts, steps=steps, seeds=[0] * len(prompts)) | told
        with watching(self.pipeline, self.networks, **watched) as record:
            self._called(arguments)
        return record

    def _called(self, arguments: dict[str, Any]) -> None:
        try:
            self.call(**arguments)
        except (EnoughSeen, UserError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a pipeline's own code may raise anything
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"its own call fails with what it is given ({type(error).__name__}: {reason}); what it "
                            "needs beside can be given as model.call") from error

    def first_step(self, prompts: list[str], options: dict | None = None, steps: int = 2) -> SchedulerStep:
        """The first step of a call without a network pass; its answers are random, seeded."""
        rng = torch.Generator().manual_seed(7)
        return only(self.run(prompts, options, steps=steps, stop_at=1,
                             answer=lambda call: self.answer(call, lambda shape: torch.randn(shape, generator=rng))))

    def decoded(self, values: Tensor) -> tuple[Tensor, tuple, dict]:
        """What the VAE is given where the last step ends in these values."""
        def replace(step: SchedulerStep, number: int) -> Tensor:
            return values.view(step.sample.shape).to(step.sample.device, torch.float32)

        record = self.run([self.prompt], decode=True, replace=replace,
                          answer=lambda call: self.answer(call, torch.zeros))
        if not record.decoded:
            raise UserError("its VAE was given nothing to decode")
        return record.decoded[0]

    def answer(self, call: NetworkCall, content: Callable[[tuple[int, ...]], Tensor]) -> Any:
        """An output for this call, of which every tensor is `content` of its shape."""
        return answered(self.template, max(1, call.rows() // self.template_rows), content)


def only(record: Record) -> SchedulerStep:
    """Its first step."""
    if not record.steps:
        raise UserError("its scheduler took no step")
    return record.steps[0]
