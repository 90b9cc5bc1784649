"""Answers of the policy and what they are worth: the one reward function that TRL is given, and what the log keeps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.media.answers import Answer
from visalign.media.conversations import Message
from visalign.media.samples import Sample
from visalign.objectives.group_figures import weighted, without_partly_scored
from visalign.parallel.sharing import Processes
from visalign.storage.files import write_atomically
from visalign.storage.run_folder import RunFolder
from visalign.trainers.online.scoring import AsyncScorer, RewardSet, check_scored

OWN_ANSWERS = "answers.jsonl"
"""In rollouts/ of a run: the last batch's first groups."""
SHOWN = 6


@dataclass(frozen=True)
class ScoredAnswers:
    """The answers of all processes, group by group. rewards: float32 [n, K], larger is better, NaN where there is no
    score; groups: int64 [n]."""

    prompts: list[str]
    answers: list[str]
    rewards: Tensor
    groups: Tensor


class AnswerScorer:
    """Scores answers with a recipe's rewards: in a thread of its own with a time limit, several times where one fails.

    end: tokens that end an answer. TRL calls `totals` in each process with its own answers; `scored` has those of all.
    at_once: answers of a batch, which a reward scores within its time limit (None: all).
    """

    def __init__(self, reward_set: RewardSet, end: Sequence[int], group_size: int, processes: Processes, device: str,
                 at_once: int | None = None):
        self.reward_set, self.end, self.at_once = reward_set, frozenset(end), at_once
        self.group_size, self.processes, self.device = group_size, processes, device
        self.scorer = AsyncScorer(reward_set)
        self._mine: list[tuple[str, str, list[float], bool, str]] = []

    def totals(self, prompts: list[list[Message]], completions: list[list[Message]], completion_ids: list[list[int]],
               **given) -> list[float]:
        """The weighted sum of each answer's rewards, NaN where it has none."""
        samples = [Sample(talk[-1]["content"], Answer(answer[-1]["content"].strip()), None,
                          {"ended": bool(ids) and ids[-1] in self.end})
                   for talk, answer, ids in zip(prompts, completions, completion_ids, strict=True)]
        size = self.at_once or len(samples)
        parts = [samples[start:start + size] for start in range(0, len(samples), size)]
        self._place(self.device)
        batches = [self.scorer.result(self.scorer.submit(part)) for part in parts]
        self._place("cpu")
        self._mine = [(sample.prompt, str(sample.answer), values, bool(failed), batch.reasons.get(i, ""))
                      for part, batch in zip(parts, batches, strict=True)
                      for i, (sample, values, failed) in enumerate(
                          zip(part, batch.values.tolist(), batch.failed.tolist(), strict=True))]
        return weighted(torch.cat([batch.values for batch in batches]).double(), self.reward_set.weights).tolist()

    def _place(self, device: str) -> None:
        if self.reward_set.settings.offload:
            self.reward_set.to(device)

    def scored(self) -> ScoredAnswers:
        """The last answers of all processes. Raises UserError when too many have no score."""
        prompts, answers, values, failed, reasons = zip(*self.processes.gather(self._mine), strict=True)
        rewards = torch.tensor(values, dtype=torch.float32)
        reason = next(filter(None, reasons), "")
        check_scored(rewards, torch.tensor(failed), self.reward_set, reason, "batch")
        return ScoredAnswers(list(prompts), list(answers), rewards, torch.arange(len(prompts)) // self.group_size)

    def total(self, scored: ScoredAnswers) -> Tensor:
        """The weighted sum of rewards, float64 [n], NaN for an answer without one that others of its group have."""
        return weighted(without_partly_scored(scored.rewards.double(), scored.groups), self.reward_set.weights)


def write_own_answers(run: RunFolder, step: int, scored: ScoredAnswers, total: Tensor, advantages: Tensor,
                      steps: Sequence[list[dict]] | None = None) -> None:
    """The first groups of a batch, best first, where the report shows them; an answer without a score is last.

    steps: of every answer, what is known of its steps, where that is known.
    """
    if not run.is_main:
        return
    rows = []
    for group in range(min(SHOWN, int(scored.groups.max()) + 1)):
        members = (scored.groups == group).nonzero().flatten()
        for i in members[total[members].nan_to_num(-torch.inf).argsort(descending=True, stable=True)].tolist():
            worth = [None if value != value else round(value, 6) for value in (total[i].item(), advantages[i].item())]
            rows.append({"step": step, "prompt": scored.prompts[i], "answer": scored.answers[i], "reward": worth[0],
                         "advantage": worth[1]} | ({} if steps is None else {"steps": steps[i]}))
    folder = run.path / "rollouts"
    folder.mkdir(exist_ok=True)
    write_atomically(folder / OWN_ANSWERS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(
        "utf-8", "backslashreplace"))
