"""Held-out answers: the same prompts and seeds at every measurement, scored, and reduced to numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, where

from visalign.config import LanguageEvaluationSettings
from visalign.data.prompts import read_prompts
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError
from visalign.evaluation.held_out import check_named_once, load_features, told_metrics
from visalign.evaluation.measure import MetricSuite
from visalign.evaluators.prompt_metrics import PromptMetrics
from visalign.language.sampling import Answerer, sample_answers
from visalign.media.answers import Answer
from visalign.media.conversations import Message
from visalign.media.samples import Sample
from visalign.parallel.sharing import ALONE, Processes
from visalign.rewards import Reward, load_reward, scores_of
from visalign.storage.out_of_memory import memory_told


@dataclass(frozen=True)
class HeldOutAnswers:
    """What is asked, what measures the answers, which reward was optimised, if known, and who shares the work.

    conversations: of a prompt that is the last turn of several, all turns. on_answers: told of what was drawn.
    """

    settings: LanguageEvaluationSettings
    tools: MetricSuite
    proxy: str | None
    processes: Processes = ALONE
    conversations: dict[str, tuple[Message, ...]] = field(default_factory=dict)
    on_answers: Callable[[list[Sample]], None] = lambda samples: None

    @memory_told("measuring held-out answers")
    def look(self, answerer: Answerer, label: str) -> tuple[PromptMetrics, list[Sample]]:
        """Answer and measure, all processes together. Raises UserError when features are not finite."""
        settings = self.settings
        prompts = read_prompts(settings.prompts, settings.max_prompts)
        samples = sample_answers(answerer, [self.conversations.get(prompt, prompt) for prompt in prompts],
                                 settings.samples_per_prompt, settings, seed=settings.seed, label=label,
                                 processes=self.processes)
        self.on_answers(samples)
        return told_metrics(prompts, samples, self, label), samples


def load_text_suite(settings: LanguageEvaluationSettings, device: str) -> tuple[MetricSuite, str | None]:
    """What measures answers, and the name of the reward that is optimised.

    Raises UserError for a reward that does not score text, or two of one name.
    """
    rewards = [load_text_reward(spec, device) for spec in filter(None, (settings.reward, *settings.also))]
    check_named_once(rewards)
    features = load_features(settings.features, device) if settings.features else None
    return MetricSuite(rewards, features), rewards[0].name if settings.reward else None


def load_text_reward(spec, device: str = "cpu") -> Reward:
    """A reward of answers. Raises UserError for one that scores something else."""
    reward = load_reward(spec, device)
    if "text" not in reward.modalities:
        raise UserError(f"reward {reward.name}: scores {' and '.join(sorted(reward.modalities))}s, not text; "
                        "`visalign list rewards` says which score text")
    return reward


def label_agreements(pairs: Sequence[TextPair], spec, device: str = "cpu") -> Tensor:
    """How a reward orders pairs: 1 as they are labelled, 0 the other way, 1/2 a tie, float32 [N]; NaN where it scores
    one of the answers not."""
    reward = load_text_reward(spec, device)
    chosen, rejected = (scores_of(reward, [Sample(pair.prompt, Answer(pair.whole(getattr(pair, side))))
                                           for pair in pairs])[0] for side in ("chosen", "rejected"))
    agreed = (chosen > rejected).float() + (chosen == rejected).float() / 2
    return where((chosen - rejected).isnan(), float("nan"), agreed)
