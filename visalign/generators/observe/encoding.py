"""Prompts to the network's arguments, by the pipeline's own call, which is stopped before the network would run."""

import torch
from torch import Tensor, nn

from visalign.generators.observe.calling import PipelineCall
from visalign.generators.observe.replay import Replay
from visalign.generators.observe.running import ShortCalls
from visalign.generators.observe.watching import noise_levels
from visalign.media.source_images import split_prompt, with_sources

GUIDED = 3.0
"""A scale at which guidance is on, whatever the pipeline counts as off: its own may be 1 less."""


class Encoder:
    """Rows of conditioning for prompts, and the times at which the pipeline samples."""

    def __init__(self, pipeline, networks: dict[str, nn.Module], call: PipelineCall, replay: Replay):
        self.call, self.replay = call, replay
        own = replay.conventions
        self.calls = ShortCalls(pipeline, networks, call, own.off, own.template, own.template_rows)
        self._sigmas: dict[int, Tensor] = {}

    @torch.no_grad()
    def wanted(self, prompt: str) -> dict[str, Tensor]:
        """One prompt's row."""
        [row] = self.replay.rows(self.calls.first_step([prompt]), True)
        return row

    @torch.no_grad()
    def negative(self, prompt: str, negative_prompt: str | None = None) -> dict[str, Tensor]:
        """The row that guidance leads this prompt away from. negative_prompt: None for the pipeline's own."""
        guidance, sources = self.replay.conventions.guidance, split_prompt(prompt)[1]
        if guidance is None or guidance.embedded or (negative_prompt is not None and not self.call.takes_negative):
            return self.wanted(with_sources(negative_prompt or "", sources))
        told = self.call.guided(guidance, GUIDED, 1, negative_prompt)
        step = self.calls.first_step([with_sources("a", sources)], self.calls.off | told)
        [row] = self.replay.rows(step, False)
        return row

    @torch.no_grad()
    def sigmas(self, steps: int) -> Tensor:
        """Noise levels from the first to 0, float32 [steps + 1], as the pipeline sets them."""
        if steps not in self._sigmas:
            self.calls.first_step([self.calls.prompt], steps=steps)
            self._sigmas[steps] = noise_levels(self.calls.pipeline.scheduler)
        return self._sigmas[steps]
