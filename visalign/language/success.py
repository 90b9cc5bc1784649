"""How often a model succeeds at each prompt, prompts at which it fails, and its successes to imitate.

Source: iRFT (Zeng et al. 2025, arXiv 2501.09766), by its abstract alone: preference pairs are made where the model
is deficient, after a warm-up by imitation that goes from easy to hard. What is ours: a success is an answer of at
least a given reward, a prompt's difficulty is the share of its answers that fail, and the warm-up imitates the
model's own successes, since prompts come without answers here.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from visalign.config.language_answers import AnswerSettings
from visalign.config.language_search import SuccessSettings
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError, notice
from visalign.language.sampling import Answerer, sample_answers
from visalign.media.samples import Sample
from visalign.parallel.sharing import Processes
from visalign.rewards import Reward, finite_scores
from visalign.sampling.seeds import second_seed
from visalign.storage.files import write_atomically, written

SUCCESS = "success.json"


class NothingDeficient(UserError):
    """The model succeeds at every prompt often enough: there is nothing left to learn from."""


@dataclass(frozen=True)
class SuccessShares:
    """Prompts by how many of their `samples` answers reach the reward `least`: prompts[k] of them with k.
    deficient: how many have a share below `below`."""

    samples: int
    least: float
    below: float
    prompts: tuple[int, ...]
    deficient: int

    def text(self) -> str:
        """'0/4: 25 %, 2/4: 75 %; deficient 25 %'."""
        total = sum(self.prompts)
        shares = [f"{k}/{self.samples}: {n / total:.0%}" for k, n in enumerate(self.prompts) if n]
        return f"{', '.join(shares)}; deficient {self.deficient / total:.0%}".replace("%", " %")


@dataclass(frozen=True)
class Tried:
    """A prompt, answers to it, and their rewards."""

    prompt: str
    answers: Sequence[Sample]
    scores: Sequence[float]

    def successes(self, least: float) -> int:
        return sum(score >= least for score in self.scores)


def tried_prompts(answerer: Answerer, prompts: Sequence[str], settings: AnswerSettings, count: int, reward: Reward,
                  seed: int, processes: Processes) -> list[Tried]:
    """`count` answers to each prompt; of other seeds than those that pairs are made of."""
    samples = sample_answers(answerer, prompts, count, settings, seed=second_seed(seed),
                             label="answers for success", processes=processes)
    scores = processes.told_by_first(lambda: finite_scores(reward, samples).tolist())
    return [Tried(prompt, samples[i * count:(i + 1) * count], scores[i * count:(i + 1) * count])
            for i, prompt in enumerate(prompts)]


def success_shares(tried: Sequence[Tried], settings: SuccessSettings) -> SuccessShares:
    counts = [each.successes(settings.least) for each in tried]
    return SuccessShares(settings.samples, settings.least, settings.below,
                         tuple(counts.count(k) for k in range(settings.samples + 1)),
                         sum(is_deficient(count, settings) for count in counts))


def is_deficient(successes: int, settings: SuccessSettings) -> bool:
    return successes / settings.samples < settings.below


def deficient_prompts(tried: Sequence[Tried], settings: SuccessSettings) -> list[str]:
    """The prompts of which less than the share `below` of the answers succeed. Raises NothingDeficient where there
    are none."""
    found = [each.prompt for each in tried if is_deficient(each.successes(settings.least), settings)]
    if not found:
        raise NothingDeficient(f"data.feedback.success.below {settings.below:g}: at each of {len(tried)} prompts "
                               f"that share of the answers or more reaches the reward {settings.least:g}, so no "
                               "prompt is deficient; ask harder prompts, or take a higher "
                               "data.feedback.success.least")
    notice(f"data.feedback.success: {len(found)} of {len(tried)} prompts are deficient, pairs are of these alone")
    return found


def solved_answers(tried: Sequence[Tried], settings: SuccessSettings) -> list[TextPair]:
    """Of each prompt the successful answer of the highest reward, which says something; prompts with a larger
    share of successes come first, and those with none are left out. Raises UserError where all are."""
    order = sorted(tried, key=lambda each: -each.successes(settings.least))
    found = [answer for each in order if (answer := _best_success(each, settings.least))]
    if not found:
        best = max(score for each in tried for score in each.scores)
        raise UserError(f"data.feedback.success.least {settings.least:g}: no answer with words to any of {len(tried)} "
                        f"prompts reaches it (the best answer has {best:.3g}), so there is no success to imitate; "
                        "take a lower one")
    share = fmean(each.successes(settings.least) / settings.samples for each in tried)
    notice(f"data.feedback.success: the successes of {len(found)} of {len(tried)} prompts are imitated, easy ones "
           f"first; mean share of successes {share:.2f}")
    return found


def _best_success(tried: Tried, least: float) -> TextPair | None:
    known = [(score, answer) for score, answer in zip(tried.scores, tried.answers, strict=True)
             if score >= least and str(answer.answer).strip()]
    if not known:
        return None
    score, answer = max(known, key=lambda each: each[0])
    return TextPair(({"role": "user", "content": tried.prompt},), str(answer.answer), None,
                    f"prompt '{tried.prompt}'", chosen_reward=score,
                    unfinished=frozenset() if answer.known.get("ended", True) else frozenset({"chosen"}))


def write_success(shares: SuccessShares, folder: Path) -> None:
    write_atomically(folder / SUCCESS, (json.dumps(asdict(shares)) + "\n").encode())


def read_success(folder: Path) -> SuccessShares | None:
    """What a run measured before it made its pairs; None where it did not."""
    if not (folder / SUCCESS).is_file():
        return None
    row = written(folder / SUCCESS)
    return SuccessShares(**row | {"prompts": tuple(row["prompts"])})
