"""How many workers a learner can use, by simulation: the scheduler of training, with events instead of networks.

    python scripts/bench/simulate_rollouts.py                     the table of docs/rollouts.md
    python scripts/bench/simulate_rollouts.py --chart docs/pictures/rollouts-simulated.png

An epoch has 64 batches of 16 samples. By default a batch takes 8 s to draw and score, a fifth of that up or down, a
worker fetches new weights in 0.5 s, the learner learns 32 s from an epoch, and a worker dies once in two hours and is
back 90 s later. On paper, with S seconds of drawing an epoch on one worker, W workers and L seconds of learning:

    staleness 0:   T = S / W + L          staleness k >= 1:   T = max(S / W, L)
"""

import argparse
import heapq
import itertools
import math
import random
from dataclasses import dataclass, field
from pathlib import Path

from visalign.trainers.online.ahead.schedule import Schedule, begun_with, drawn_with

WORKERS, STALENESS = (1, 2, 4, 8, 16, 32, 64), (0, 1, 2)
BLUE, ORANGE, GREEN, GREY = "#2457a6", "#b4521e", "#2f7d4f", "#8a93a0"


@dataclass(frozen=True)
class Times:
    """Seconds: to draw and score a batch (its mean, and its spread as a share of that), to fetch new weights, to learn
    from an epoch, between two deaths of one worker (0: none), and until its successor is ready."""

    batch: float = 8.0
    spread: float = 0.2
    fetching: float = 0.5
    learning: float = 32.0
    between_deaths: float = 7200.0
    starting: float = 90.0


def on_paper(workers: int, staleness: int, batches: int, times: Times) -> float:
    """Seconds an epoch takes where batches divide evenly and nothing varies."""
    drawing = batches * times.batch / workers
    return drawing + times.learning if staleness == 0 else max(drawing, times.learning)


@dataclass
class Simulation:
    """One run of `epochs`. drawn: how often each batch was counted; redrawn: batches lost with their worker."""

    workers: int
    staleness: int
    times: Times = Times()
    epochs: int = 40
    batches: int = 64
    seed: int = 0
    drawn: dict = field(default_factory=dict)
    redrawn: int = 0

    def __post_init__(self):
        self.schedule, self.random = Schedule(losses=10**9), random.Random(self.seed)
        self.events, self.order, self.holds = [], itertools.count(), {}
        self.learnt, self.begun, self.waits = 0, 0, False

    def run(self) -> float:
        """Seconds an epoch takes, the first left out, which nothing overlaps."""
        for worker in range(self.workers):
            self._start(worker, 0.0, after=0.0)
        self._collect(0.0)
        first = now = 0.0
        while self.learnt < self.epochs:
            now, _, what, worker = heapq.heappop(self.events)
            before = self.learnt
            what(now, worker)
            first = now if before == 0 and self.learnt == 1 else first
            self._give(now)
        return (now - first) / (self.epochs - 1)

    def _later(self, now: float, what, worker: int | None = None) -> None:
        heapq.heappush(self.events, (now, next(self.order), what, worker))

    def _start(self, worker: int, now: float, after: float) -> None:
        self.schedule.start(worker, now)
        self.holds[worker] = -1
        self._later(now + after, self._ready, worker)

    def _ready(self, now: float, worker: int) -> None:
        self.schedule.ready(worker)

    def _give(self, now: float) -> None:
        for worker, batch, version in self.schedule.give(now):
            seconds = self.times.batch * max(0.1, self.random.gauss(1.0, self.times.spread))
            if self.holds[worker] != version:
                seconds, self.holds[worker] = seconds + self.times.fetching, version
            dies = self.random.expovariate(1 / self.times.between_deaths) if self.times.between_deaths else math.inf
            if dies < seconds:
                self._later(now + dies, self._die, worker)
            else:
                self._later(now + seconds, lambda at, number, batch=batch, version=version: self._done(
                    at, number, batch, version), worker)

    def _die(self, now: float, worker: int) -> None:
        self.redrawn += 1
        self.schedule.lose(worker, "died")
        self._start(worker, now, self.times.starting)

    def _done(self, now: float, worker: int, batch, version: int) -> None:
        if self.schedule.done(worker, version, batch):
            self.drawn[batch] = self.drawn.get(batch, 0) + 1
        if self.waits:
            self._take(now)

    def _collect(self, now: float) -> None:
        """The learner is about to learn from its next epoch."""
        for epoch in begun_with(self.learnt, self.staleness, self.epochs):
            self.schedule.begin(epoch, self.batches, drawn_with(epoch, self.staleness))
        self._take(now)

    def _take(self, now: float) -> None:
        self.waits = self.schedule.take(self.learnt) is None
        if not self.waits:
            self._later(now + self.times.learning, self._learnt)

    def _learnt(self, now: float, worker: None) -> None:
        self.learnt += 1
        if self.learnt < self.epochs:
            self._collect(now)


def figures(times: Times, seeds: int = 3) -> dict[tuple[int, int], float]:
    """Seconds an epoch takes by (workers, staleness), means over seeds."""
    return {(workers, staleness): sum(Simulation(workers, staleness, times, seed=seed).run()
                                      for seed in range(seeds)) / seeds
            for workers in WORKERS for staleness in STALENESS}


def table(times: Times, found: dict, batches: int = 64, size: int = 16) -> str:
    """Samples a second, simulated and on paper."""
    lines = ["| workers | " + " | ".join(f"staleness {k} | on paper" for k in STALENESS[:2]) + " | staleness 2 |",
             "|---" * 6 + "|"]
    for workers in WORKERS:
        def speed(seconds: float) -> str:
            return f"{batches * size / seconds:.1f}"

        cells = [speed(each) for k in STALENESS[:2]
                 for each in (found[workers, k], on_paper(workers, k, batches, times))]
        lines.append(f"| {workers} | {' | '.join(cells)} | {speed(found[workers, 2])} |")
    return "\n".join(lines)


def chart(times: Times, found: dict, file: Path, batches: int = 64, size: int = 16) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axis = figure.subplots()
    many = [2 ** (i / 8) for i in range(49)]
    for staleness, colour in zip(STALENESS, (ORANGE, BLUE, GREEN), strict=True):
        axis.plot(WORKERS, [batches * size / found[workers, staleness] for workers in WORKERS], "o-", color=colour,
                  markersize=4, label=f"staleness {staleness}")
        if staleness < 2:
            axis.plot(many, [batches * size / on_paper(workers, staleness, batches, times) for workers in many], "--",
                      color=GREY, linewidth=0.9, label="on paper" if staleness == 0 else None)
    axis.set_xscale("log", base=2)
    axis.set_xticks(WORKERS, [str(workers) for workers in WORKERS])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("workers", fontsize=9)
    axis.set_title("samples learnt from a second", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in vars(Times()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    parser.add_argument("--chart", type=Path, help="also draw it")
    args = parser.parse_args()
    times = Times(**{name: getattr(args, name) for name in vars(Times())})
    found = figures(times)
    print(table(times, found))
    if args.chart:
        chart(times, found, args.chart)


if __name__ == "__main__":
    main()
