"""A request's samples on their way: room for them, decoding, batches, and the answers in their order."""

import asyncio
import os

from visalign.media.samples import Sample
from visalign.rewards.web.wire import LONGEST_REMARK, SampleScores
from visalign.serving.batching import Batcher
from visalign.serving.intake import Given, Intake, decoded_sample, pixels_in
from visalign.serving.metrics import Metrics
from visalign.serving.panel import RewardPanel, Task
from visalign.serving.settings import ServeSettings


class RewardService:
    """What every form of request is answered by."""

    def __init__(self, panel: RewardPanel, settings: ServeSettings):
        self.panel, self.settings, self.metrics = panel, settings, Metrics()
        self.intake = Intake(settings, os.cpu_count() or 1, self.metrics.held.set)
        self.batcher = Batcher(panel, settings.batch, settings.wait_ms / 1000, self.metrics)
        self.metrics.describe(list(panel.served.values()))

    async def start(self) -> None:
        await self.batcher.start()

    async def stop(self) -> None:
        await self.batcher.stop()
        self.intake.close()

    async def score(self, given: list[Given], rewards: tuple[str, ...]) -> list[dict[str, SampleScores]]:
        """What each reward says of each sample. Raises Refusal where there is no room."""
        self.intake.check_count(len(given))
        pixels = await self.intake.work(pixels_in, given)
        with self.intake.held(len(given), pixels):
            samples = await asyncio.gather(*(self.intake.work(decoded_sample, each) for each in given))
            rows: list[dict[str, SampleScores]] = [{} for _ in given]
            places, tasks = self._tasks(given, samples, rewards, rows)
            for at, answered in zip(places, await self.batcher.score(tasks), strict=True):
                for i, said in zip(at, answered, strict=True):
                    rows[i] |= said
        return [{name: with_notes(row[name], sample) for name in rewards}
                for row, sample in zip(rows, samples, strict=True)]

    def _tasks(self, given: list[Given], samples: list[Sample | str], rewards: tuple[str, ...],
               rows: list[dict[str, SampleScores]]) -> tuple[list[list[int]], list[Task]]:
        """Tasks and the samples that each is of; what can be answered at once goes into `rows`."""
        alone = tuple(name for name in rewards if not self.panel.served[name].needs_group)
        compared = tuple(name for name in rewards if name not in alone)
        places: list[list[int]] = []
        groups: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            if isinstance(sample, str):
                rows[i] |= {name: self._missing(name, sample) for name in rewards}
                continue
            if alone:
                places.append([i])
            if compared and given[i].group is None:
                rows[i] |= {name: self._missing(name, f"{name} compares the samples of a group; say of which group "
                                                      "each sample is") for name in compared}
            elif compared:
                groups.setdefault(given[i].group, []).append(i)
        tasks = [Task((samples[at[0]],), alone) for at in places]
        tasks += [Task(tuple(samples[i] for i in at), compared) for at in groups.values()]
        return [*places, *groups.values()], tasks

    def _missing(self, name: str, why: str) -> SampleScores:
        return SampleScores((None,) * len(self.panel.served[name].dimensions), remark=why[:LONGEST_REMARK])


def with_notes(said: SampleScores, sample: Sample | str) -> SampleScores:
    """With what was noted when the sample was decoded, such as frames that were left out."""
    notes = [] if isinstance(sample, str) else sample.known["remarks"]
    remark = "; ".join([*([said.remark] if said.remark else []), *notes]) or None
    return SampleScores(said.values, said.spread, remark and remark[:LONGEST_REMARK])
