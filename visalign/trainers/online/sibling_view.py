"""The view of siblings: the best and the worst candidate of a stored step, at the one prediction they came from."""

import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.objectives.online import StepTerms
from visalign.processes.steps import LOG_PROBS, sensitivity
from visalign.trainers.online.guide import steps_in_range
from visalign.trainers.online.step_selection import StepPlan, plan_steps
from visalign.trainers.online.views import MicroBatch, StepView


class SiblingView(StepView):
    """Stored pairs of a stochastic sampler, one per term: rows 2i and 2i + 1 are a sample's best and worst sibling.

    Their advantages are 1 and -1, and 0 where the guide does not tell them apart.
    """

    def prepare(self, noisy: list[int]) -> None:
        super().prepare(noisy)
        self.terms = self.kept(plan_steps(self.settings, noisy, 0, self.context.seed, [0])).shape[1]
        if not self.terms:
            raise UserError(f"rollout.train_fraction {self.settings.train_fraction:g}: no step that it leaves lies "
                            "in the range of rollout.guide, so no siblings would be drawn; set it to 1")

    def kept(self, plan: StepPlan) -> Tensor:
        inside = steps_in_range(self.settings.guide, self.process, self.times, plan.trained[0].tolist())
        return plan.trained[:, [j in inside for j in plan.trained[0].tolist()]]

    def build(self, batch: MicroBatch, term: int) -> tuple[StepTerms, Tensor]:
        def stored(name: str) -> Tensor:
            return torch.stack([getattr(s, name)[term] for s in batch.samples]).to(self.generator.device)

        def both(best: Tensor, worst: Tensor) -> Tensor:
            return torch.stack([best, worst], 1).flatten(0, 1)

        def twice(values: Tensor) -> Tensor:
            return both(values, values)

        steps, x = torch.stack([s.steps[term] for s in batch.samples]), stored("before")
        t, t_next = self.times[steps].to(x.device), self.times[steps + 1].to(x.device)
        prediction, _, reference = self.predictions(x, t, batch)
        where = (x, t, t_next, self.settings.sampler, self.settings.noise_level)
        mean, std = self.process.moments(prediction, *where)
        ref_mean = self.process.moments(reference, *where).mean
        log_prob, after, std = LOG_PROBS[self.settings.log_prob], both(stored("after"), stored("other")), twice(std)
        decided = stored("decided").float()
        return StepTerms(
            advantage=both(decided, -decided), log_prob=log_prob(after, twice(mean), std),
            old_log_prob=both(stored("log_prob"), stored("other_log_prob")), sample=after, mean=twice(mean),
            old_mean=None, std=std, h=twice(self.process.noise_fraction(t) - self.process.noise_fraction(t_next)),
            sensitivity=twice(sensitivity(self.process, *where)), prediction=twice(prediction),
            ref_log_prob=log_prob(after, twice(ref_mean), std), ref_mean=twice(ref_mean),
            ref_prediction=twice(reference), group=twice(self.groups(batch)), step=twice(steps.to(x.device))), \
            twice(steps)
