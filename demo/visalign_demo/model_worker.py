"""One thread that owns every model and runs one job at a time, users' requests before background work."""

import gc
import itertools
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from visalign.config import LoraSettings
from visalign.errors import UserError
from visalign.evaluation.sources import SampleSource
from visalign.generators import load_generator
from visalign.generators.base import Generator
from visalign.media.samples import Media
from visalign.sampling.source_check import check_takes_sources

PEOPLE, BACKGROUND = 0, 1
_log = logging.getLogger("visalign.demo")


class Cancelled(Exception):
    """Nobody waits for this job any more, or it must yield to one that somebody waits for."""


@dataclass(frozen=True)
class Step:
    """Progress of a job: `done` of `steps` steps of `what`."""

    what: str
    done: int
    steps: int


class Job:
    """Queued work. Iterating over it yields what the work reports, and raises what ended it.

    cut_short: afterwards, whether it was cancelled before it was complete.
    """

    def __init__(self, work: Callable[["Job"], Any], makes_way: Callable[[], bool] = lambda: False):
        self.work, self.makes_way = work, makes_way
        self.cut_short = False
        self._told: queue.Queue = queue.Queue()
        self._cancelled = threading.Event()

    def tell(self, news: Any) -> None:
        """Report something to the iterating reader. Raises Cancelled when there is none any more."""
        self.check()
        self._told.put(news)

    def check(self) -> None:
        """Raise Cancelled when this should end."""
        if self._cancelled.is_set() or self.makes_way():
            raise Cancelled

    def cancel(self) -> None:
        self._cancelled.set()

    def run(self) -> None:
        """Do the work, on the worker's thread."""
        try:
            self.check()
            self.work(self)
            self._told.put(_End())
        except BaseException as error:
            self._told.put(_End(error))

    def __iter__(self) -> Iterator[Any]:
        try:
            while not isinstance(news := self._told.get(), _End):
                yield news
            self.cut_short = isinstance(news.error, Cancelled)
            if news.error is not None and not self.cut_short:
                raise news.error
        finally:
            self.cancel()  # a reader that stops, such as a closed page, needs no more


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


class ModelWorker:
    """Runs jobs, and holds at most `keep` models in memory; those that differ only in their LoRA or their negative
    adapter count as one."""

    def __init__(self, device: str = "auto", keep: int = 2, most_waiting: int = 32):
        self.device, self.keep, self.most_waiting = device, keep, most_waiting
        self._jobs: queue.PriorityQueue = queue.PriorityQueue()
        self._order, self._people, self._lock = itertools.count(), 0, threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._thread = threading.Thread(target=self._work, name="models", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Job], Any], urgency: int = PEOPLE) -> Job:
        """Queue work. Raises UserError when too many jobs wait."""
        if urgency == PEOPLE:
            with self._lock:
                if self._people >= self.most_waiting:
                    raise UserError(f"{self.most_waiting} requests are waiting already; try again in a minute")
                self._people += 1
        job = Job(work, self.people_wait if urgency == BACKGROUND else lambda: False)
        self._jobs.put((urgency, next(self._order), job))
        return job

    def people_wait(self) -> bool:
        """Whether somebody's job has not begun."""
        return self._people > 0

    def _work(self) -> None:
        while True:
            urgency, _, job = self._jobs.get()
            if urgency == PEOPLE:
                with self._lock:
                    self._people -= 1
            try:
                job.run()
            except BaseException:  # the thread must survive whatever a job does
                _log.exception("a job ended badly")

    def sample(self, job: Job, source: SampleSource, prompt: str, seeds: list[int], *, steps: int,
               guidance_scale: float,
               strength: float = 1.0) -> list[Media]:
        """Media of one prompt, one per seed; reports a Step after each sampling step. To be called from a job.

        Raises UserError when memory does not suffice; the models are then released.
        """
        made: list[Media] = []
        total, size = len(seeds) * steps, 0

        def on_step(done: int, of: int) -> None:
            job.tell(Step(source.name, min(total, len(made) * steps + done * size), total))

        try:
            generator = self.generator(source, strength)
            generator.check_prompts([prompt], "prompt")
            check_takes_sources(generator, [prompt], source.name)
            for start in range(0, len(seeds), 8):
                part = seeds[start:start + 8]
                size = len(part)
                for batch in generator.sample([prompt] * size, part, steps=steps, guidance_scale=guidance_scale,
                                              batch_size=8, on_step=on_step):
                    made += batch
            return made
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self.let_go()
            raise UserError(f"{source.name}: memory did not suffice for {len(seeds)} samples at once; ask for fewer, "
                            "or start the demo with a smaller model") from None

    def generator(self, source: SampleSource, strength: float = 1.0) -> Generator:
        """A source's generator with its adapters at `strength`, from memory or loaded. To be called from a job."""
        key = key_of(source)
        held = self._held.pop(key, None)
        if held is None:
            while len(self._held) >= self.keep:
                self._held.popitem(last=False)
                free()
            held = _Held(load_generator(source.model, self.device) if source.model else source.load(self.device))
        self._held[key] = held
        held.wear(source, strength)
        return held.generator

    def let_go(self) -> None:
        """Release every model."""
        self._held.clear()
        free()


class _Held:
    """A loaded model, its LoRA and what it is guided away from."""

    def __init__(self, generator: Generator):
        self.generator, self._lora, self._negative = generator, None, None

    def wear(self, source: SampleSource, strength: float) -> None:
        if source.model is not None:
            self._put_on(source)
        self.generator.set_adapter_strength(strength if source.model is None or source.adapter or source.negative
                                            else 0.0)

    def _put_on(self, source: SampleSource) -> None:
        """Load what the source has and is not there; where it is without adapters, a LoRA stays at strength 0."""
        lora = source.adapter if source.adapter or source.negative else self._lora
        if lora != self._lora:
            self.generator.unload_adapter()
            self._lora = self._negative = None
            if lora is not None:
                self.generator.load_adapter(lora)
            self._lora = lora
        if source.negative != self._negative:
            self.generator.unload_negative_adapter()
            self._negative = None
            if source.negative is not None:
                self.generator.load_negative_adapter(source.negative.lora, source.negative.less)
            self._negative = source.negative


def key_of(source: SampleSource) -> str:
    """What distinguishes one model in memory from another."""
    if source.model is None:
        return repr(source.identity)
    shown = {"tuning": "lora", "lora": LoraSettings(start=source.model.lora.start), "gradient_checkpointing": False}
    return source.model.model_copy(update=shown).model_dump_json()


def out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in text or "allocate" in text


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
