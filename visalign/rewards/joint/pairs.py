"""A trained general preference model: it says which of two samples is better, and gives none a number of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.media.samples import Sample
from visalign.objectives.general import preference_score
from visalign.rewards.base import Scores, as_read
from visalign.rewards.joint.reward import TrainedReward
from visalign.rewards.pairwise import Failure, matches, win_rates
from visalign.validation.ranges import Few


@dataclass
class JointPairs(TrainedReward):
    """A reward with the head `model.general`, which may prefer in cycles: a sample's value is its mean probability of
    winning against the other samples of its prompt in the same call (at most about `opponents` of them).

    source: its folder. Each sample passes through the network once, however many others it meets.
    """

    opponents: Few = 64

    dimensions = ("win_rate",)
    needs_group = True
    score_range = (0.0, 1.0)
    kind = "joint_pairs"

    @torch.no_grad()
    def embeddings(self, samples: list[Sample]) -> Tensor:
        """One of each member, [n, E, 2k] on the CPU."""
        parts = [samples[i:i + self.batch_size] for i in range(0, len(samples), self.batch_size)]
        return torch.cat([self.network(**self.inputs_of(part))[:, :, 0].cpu() for part in parts])

    def compare(self, pairs: list[tuple[Sample, Sample]]) -> list[float | Failure]:
        """Probability that the first of each pair is better, mean over members; a Failure for a sample that cannot be
        looked at."""
        read = [[self.as_seen(sample) for sample in pair] for pair in pairs]
        seen = {i: pair for i, pair in enumerate(read) if not any(isinstance(side, Failure) for side in pair)}
        found: list[float | Failure] = [next((side for side in pair if isinstance(side, Failure)), Failure(""))
                                        for pair in read]
        if seen:
            a, b = (self.embeddings([pair[side] for pair in seen.values()]) for side in (0, 1))
            for i, chance in zip(seen, preference_score(a, b).sigmoid().mean(1).tolist(), strict=True):
                found[i] = chance
        return found

    def as_seen(self, sample: Sample) -> Sample | Failure:
        """The sample as it is read, or why it cannot be."""
        try:
            sample = as_read(sample)
        except ValueError as error:
            return Failure(str(error))
        reason = self.refusal(sample)
        return Failure(reason) if reason else sample

    def score_batch(self, samples: list[Sample]) -> Scores:
        met, embeddings = matches(samples, self.opponents), self.embeddings(samples)
        a, b = (embeddings[[match[side] for match in met]] for side in (0, 1))
        rates = win_rates(len(samples), met, preference_score(a, b).sigmoid().mean(1).tolist())
        return Scores(rates.values, self.remarks_of(samples) | rates.remarks)
