"""The part of a comparison's page on one run at several strengths: what each gains, what it costs, which to take."""

from visalign.evaluation.compare import Results
from visalign.evaluation.strengths import StrengthChoice
from visalign.evaluators.statistics import Estimate
from visalign.reports import charts


def by_strength(results: Results, choice: StrengthChoice) -> dict:
    """Charts, words and an explanation for the page."""
    verdicts, base = results.verdicts, results.base
    changes = {model: verdict.diversity for model, verdict in verdicts.items() if verdict.diversity is not None}
    models = [model for model in choice.strengths if model in changes]
    strengths = [choice.strengths[model] for model in models]
    drawn = []
    if models:
        gains = {base: Estimate(0.0, 0.0, 0.0)} | {model: verdicts[model].rewards[choice.reward] for model in models}
        kept = {base: Estimate(100.0, 100.0, 100.0)} | {model: _kept(changes[model]) for model in models}
        drawn.append(charts.trade_chart({model: f"{choice.strengths[model]:g}" for model in gains}, gains, kept,
                                        100 * (1 - choice.budget), choice.best, choice.reward))
        series = {name: [verdicts[model].rewards[name] for model in models] for name in verdicts[models[0]].rewards}
        drawn.append(charts.steps_chart(strengths, series, "change of each reward, sd of the base", "strength", True))
        diversity = {"diversity": [changes[model].scaled(100) for model in models]}
        drawn.append(charts.steps_chart(strengths, diversity, "change of diversity, %", "strength", True))
    about = ("The same run at several strengths: 0 is the base, 1 is as trained. Strengths count from the smallest up "
             f"to the first whose interval leaves the budget of a {100 * choice.budget:g} % loss of diversity; of "
             f"those, what is neither hacked nor collapsed and gains most {choice.reward} is chosen.")
    return {"title": "Choosing the strength", "charts": drawn, "peaks": [], "about": about,
            "words": [(model, verdict.word) for model, verdict in verdicts.items()]}


def _kept(change: Estimate) -> Estimate:
    """The share of the base's diversity that is left, in percent, of its relative change."""
    return Estimate(*(100 * (1 + bound) for bound in change))
