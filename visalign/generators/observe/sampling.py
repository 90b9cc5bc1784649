"""Sampling through the pipeline itself, up to the scheduler's last step."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from visalign.generators.observe.watching import EnoughSeen, scheduler_replaced

OnStep = Callable[[int, int], None]
"""Called with (steps done, steps) after each sampling step of a batch."""


@dataclass
class Last:
    """The latents after the last step, in the scheduler's own layout."""

    latents: Any = None


@contextlib.contextmanager
def final_latents(pipeline, on_step: OnStep | None) -> Iterator[Last]:
    """Within it the pipeline's call ends after its last step, quietly; what `on_step` raises propagates."""
    last, scheduler, done = Last(), pipeline.scheduler, 0

    def seen(step: Callable, arguments: tuple, named: dict):
        nonlocal done
        output = step(*arguments, **named)
        done += 1
        if on_step is not None:
            on_step(done, len(scheduler.timesteps))
        if done == len(scheduler.timesteps):
            last.latents = output[0] if isinstance(output, tuple) else output.prev_sample
            raise EnoughSeen
        return output

    with scheduler_replaced(scheduler, seen), contextlib.suppress(EnoughSeen):
        yield last
    if last.latents is None:
        raise RuntimeError(f"the pipeline took {done} of {len(scheduler.timesteps)} steps of its scheduler")
