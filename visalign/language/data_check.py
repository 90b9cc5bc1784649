"""`visalign data check` on pairs of text: what is in a set, what is wrong with it, and how it fits a model."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean, median

from visalign.config import TextDataSettings
from visalign.config.language_answers import AnswerSettings
from visalign.data.text_pairs import TextPair, has_pairs, read_text_pairs
from visalign.errors import UserError
from visalign.language.chat import encode_pair, length_of
from visalign.language.sampling import Answerer, sample_answers
from visalign.storage.language_models import LanguageModel, load_language_model

SHOWN, LIKE, OWN_PROMPTS = 20, 0.05, 16
"""Rows that are listed; the share of pairs, most alike to the model, that is; prompts that get own answers."""


@dataclass
class TextSummary:
    """Lines of a report, a sentence for each row that cannot be used, and why the set cannot be trained on."""

    lines: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    problem: str | None = None

    def text(self) -> str:
        shown = [*self.lines, *(f"broken: {each}" for each in self.broken[:SHOWN])]
        if len(self.broken) > SHOWN:
            shown.append(f"and {len(self.broken) - SHOWN} more")
        return "\n".join([*shown, *[f"problem: {self.problem}"] * bool(self.problem)])


def check_text_pairs(settings: TextDataSettings, model: str | None = None, alike: bool = False) -> TextSummary:
    """Count pairs, equal answers, duplicates, contradictions and broken rows; with a model tokens, how likely the
    answers are to it beside its own, and with `alike` the pairs whose answers are most alike to it (CHES)."""
    summary = TextSummary()
    try:
        compared = has_pairs(settings)
        pairs = read_text_pairs(settings, compared, lambda error: summary.broken.append(str(error)))
    except UserError as error:
        summary.problem = str(error)
        return summary
    summary.lines += described_pairs(settings.named, pairs)
    if model is not None:
        loaded = load_language_model(model, where="--model")
        summary.lines += fit_to_model(pairs, loaded, alike)
    return summary


def described_pairs(named: str, pairs: list[TextPair]) -> list[str]:
    """Numbers of a set that its texts alone give."""
    prompts = Counter(pair.prompt for pair in pairs)
    sides = Counter((pair.messages[-1]["content"] + pair.prefix, pair.chosen, pair.rejected) for pair in pairs)
    turned = sum((prompt, rejected, chosen) in sides for prompt, chosen, rejected in sides if rejected is not None)
    lines = [f"{named}: {len(pairs)} {'pairs' if pairs[0].rejected is not None else 'answers'} of {len(prompts)} "
             f"prompts; {sum(n - 1 for n in sides.values())} repeated, {turned // 2} contradict another one",
             f"turns before the answer: {fmean(len(pair.messages) for pair in pairs):.1f} on average",
             f"words of chosen answers: {_words(pair.chosen for pair in pairs)}"]
    if pairs[0].rejected is not None:
        longer = fmean(len(pair.chosen.split()) > len(pair.rejected.split()) for pair in pairs)
        lines += [f"words of rejected answers: {_words(pair.rejected for pair in pairs)}",
                  f"the chosen answer is the longer one in {longer:.0%} of the pairs" + (
                      "; length alone tells them apart, so length is what will be learnt") * (abs(longer - 0.5) > 0.4)]
    return lines


def _words(texts) -> str:
    counts = sorted(len(text.split()) for text in texts)
    return f"{median(counts):.0f} in the middle, {counts[0]} to {counts[-1]}"


def fit_to_model(pairs: list[TextPair], model: LanguageModel, alike: bool) -> list[str]:
    """Tokens, and the mean log-probability per token of the chosen answers beside that of the model's own."""
    from visalign.rewards.text.likelihood import answer_log_probs

    rows = [encode_pair(model.tokenizer, pair, i, None) for i, pair in enumerate(pairs)]
    lengths = sorted(map(length_of, rows))
    lines = [f"tokens of prompt and answer: {median(lengths):.0f} in the middle, {lengths[-1]} at most"]
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))[:OWN_PROMPTS]
    own = sample_answers(Answerer(model.model, model.tokenizer), prompts, 1, AnswerSettings(max_tokens=64), seed=0,
                         label="own answers")
    first = [next(pair for pair in pairs if pair.prompt == prompt) for prompt in prompts]

    def likely(answers: list[str]) -> float:
        sums, tokens = answer_log_probs(model, prompts, answers)
        return (sums.sum() / tokens.sum()).item()

    given, drawn = likely([pair.whole(pair.chosen) for pair in first]), likely([str(sample.answer) for sample in own])
    lines.append(f"log-probability per token: {given:.2f} of chosen answers, {drawn:.2f} of the model's own" + (
        "; the pairs are far from what it says, so it may forget more than it learns (train sft on the chosen answers "
        "first, or make pairs of its own answers)" if given < drawn - 1 else ""))
    if alike and pairs[0].rejected is not None:
        from visalign.language.diagnostics import ches_of_rows

        scores = ches_of_rows(model.model, rows, model.tokenizer.pad_token_id)
        order = sorted(range(len(rows)), key=lambda i: -scores[i])[:max(1, int(LIKE * len(rows)))]
        lines += [f"answers most alike to the model, which become less likely together (data.drop_ches={LIKE}):",
                  *(f"  {pairs[i].where}: ches {scores[i]:.0f}" for i in order[:SHOWN])]
    return lines
