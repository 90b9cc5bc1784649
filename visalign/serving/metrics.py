"""What the server counts, in Prometheus's text."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from visalign.rewards.web.wire import SampleScores, ServedReward

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counters of one server."""

    type = CONTENT_TYPE_LATEST

    def __init__(self):
        kept = self.registry = CollectorRegistry()
        self.requests = Counter("visalign_requests", "Requests by form and status", ["form", "status"], registry=kept)
        self.samples = Counter("visalign_samples", "Samples by reward and outcome: scored or missing",
                               ["reward", "outcome"], registry=kept)
        self.request_seconds = Histogram("visalign_request_seconds", "From the whole request to its answer", ["form"],
                                         buckets=SECONDS, registry=kept)
        self.batch_seconds = Histogram("visalign_batch_seconds", "Scoring one batch", buckets=SECONDS, registry=kept)
        self.batch_samples = Histogram("visalign_batch_samples", "Samples in one batch", buckets=SAMPLES, registry=kept)
        self.held = Gauge("visalign_held_samples", "Samples in the server: decoding, waiting or being scored",
                          registry=kept)
        self.served = Info("visalign_reward", "Rewards and their versions", ["reward"], registry=kept)

    def describe(self, rewards: list[ServedReward]) -> None:
        for each in rewards:
            self.served.labels(each.name).info({"version": each.version})

    def batch(self, samples: int, seconds: float, answers: list[list[dict[str, SampleScores]]]) -> None:
        self.batch_samples.observe(samples)
        self.batch_seconds.observe(seconds)
        for row in (row for answered in answers for row in answered):
            for reward, said in row.items():
                outcome = "missing" if all(value is None for value in said.values) else "scored"
                self.samples.labels(reward, outcome).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
