"""Both models' answers cut to equal length and measured once more: of samples in memory, and of a run's own."""

from pathlib import Path

from visalign.data.generations import find_generations
from visalign.evaluation.measure import MetricSuite, metrics_of
from visalign.evaluators.text_length import LEAST_WORDS, EqualLength, shorter_median
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.media.words import first_words


def equal_length_of(prompts: list[str], before: list[Sample], after: list[Sample],
                    tools: MetricSuite) -> EqualLength | None:
    """Measure answers as `metrics_of` does, all of them cut to the median words of the shorter model's; None where that
    is too short to tell anything.

    Raises ValueError when features are not finite.
    """
    words = shorter_median([sample.answer for sample in each] for each in (before, after))
    if words < LEAST_WORDS:
        return None
    cut = [[sample.with_media(Answer(first_words(sample.answer, words))) for sample in each]
           for each in (before, after)]
    return EqualLength(words, *(metrics_of(prompts, each, tools) for each in cut))


def equal_length_of_run(run: Path, rows: list[dict], tools: MetricSuite) -> EqualLength | None:
    """The same of a language model's run, from its first to its last held-out row. Raises UserError where the answers
    are not there any more."""
    before, after = ([entry.sample() for entry in find_generations(run / "samples" / row["folder"])]
                     for row in (rows[0], rows[-1]))
    return equal_length_of(rows[0]["prompts"], before, after, tools)
