"""The page of `visalign evaluate` and `visalign compare`: the verdict first, then the evidence."""

import json
from pathlib import Path

import numpy as np

from visalign.evaluation.compare import Results
from visalign.evaluation.results import result_rows, results_csv, results_json, summary
from visalign.evaluators.overoptimisation import best_of_n_kl, past_peak
from visalign.evaluators.statistics import Estimate, mean_with_interval
from visalign.evaluators.verdict import DIVERSITY
from visalign.reports import charts, data_uri, render_page, shown_media, source_uris
from visalign.reports.oracle import oracle_shown
from visalign.reports.strengths import by_strength
from visalign.storage.files import write_atomically

CHANGED, WALLS, SEEDS_SHOWN, MODELS_SHOWN, WALL_SEEDS = 3, 4, 4, 4, 16


def write_comparison(results: Results, file: Path) -> None:
    """A self-contained page; every number in it can be downloaded from it."""
    rows = result_rows(results)
    shown = shown_models(results)
    write_atomically(file, render_page(
        "compare.html.j2", title=title_of(results), results=results, verdicts=results.verdicts, shown=shown,
        last=foremost(results), images=changed_most_and_least(results, shown), walls=walls(results, shown),
        charts=comparison_figures(results), curves=comparison_curves(results), tables=tables(results),
        ladders=results.ladders, oracle=oracle_shown(results),
        prompts=len(results.matched.prompts), seeds=results.matched.seeds,
        csv=data_uri("text/csv", results_csv(rows).encode()),
        json=data_uri("application/json", json.dumps(results_json(results), indent=1).encode())))


def title_of(results: Results) -> str:
    others = [model for model in results.models if model != results.base]
    if results.strengths:
        return f"{results.strengths.run} at {len(others)} strengths"
    if not others:
        return f"{results.base}: diversity and quality"
    return f"{others[-1] if len(others) > 3 else ', '.join(others)} against {results.base}"


def foremost(results: Results) -> str:
    """The model whose verdict comes first where there are many: the strength that was chosen, or the last."""
    chosen = results.strengths.best if results.strengths else None
    return chosen or results.models[-1]


def shown_models(results: Results) -> list[str]:
    """The base and at most three others, evenly chosen and the last among them; and the strength that was chosen."""
    others = [model for model in results.models if model != results.base]
    count = min(len(others), MODELS_SHOWN - 1)
    shown = {results.base, foremost(results), *(others[round((i + 1) * len(others) / count) - 1] for i in range(count))}
    return [model for model in results.models if model in shown]


def changed_most_and_least(results: Results, shown: list[str]) -> list[dict]:
    """Prompts by how far the last model's features moved from the base's on the same seeds."""
    last = shown[-1]
    if last == results.base:
        chosen = [(p, None) for p in range(min(2 * CHANGED, len(results.matched.prompts)))]
    else:
        a, b = results.measured[results.base].features, results.measured[last].features
        moved = (1 - (a * b).sum(-1)).mean(1).numpy()
        order = np.argsort(-moved, kind="stable")
        chosen = [(int(p), float(moved[p])) for p in dict.fromkeys([*order[:CHANGED], *order[-CHANGED:]])]
    return [{**asked_of(results, p), "moved": moved, "rows": [
        {"model": model, "media": [shown_media(entry.sample(16).media, 144) for entry in
                                   results.matched.entries[model][p][:SEEDS_SHOWN]],
         "rewards": {name: results.measured[model].measured.values[f"reward/{name}"][p]
                     for name in results.measured[model].rewards}} for model in shown]} for p, moved in chosen]


def asked_of(results: Results, place: int) -> dict:
    """The words of a prompt, and its source images where it is an edit."""
    first = results.matched.entries[results.base][place][0]
    return {"prompt": first.prompt, "sources": source_uris(first.source_images())}


def walls(results: Results, shown: list[str]) -> list[dict]:
    """Prompts that lost most diversity: all seeds of the base beside those of the last model."""
    models = [shown[0], shown[-1]] if len(shown) > 1 else shown
    values = [results.measured[model].measured.values.get(DIVERSITY) for model in models]
    if values[0] is None:
        return []
    lost = np.array(values[0]) - np.array(values[-1])
    return [{**asked_of(results, p), "sides": [
        {"model": model, "vendi": 1 + own[p],
         "media": [shown_media(entry.sample(16).media, 96) for entry in results.matched.entries[model][p][:WALL_SEEDS]]}
        for model, own in zip(models, values, strict=True)]} for p in np.argsort(-lost, kind="stable")[:WALLS]]


def comparison_figures(results: Results) -> list:
    """Front, drift and ladders."""
    found = []
    base, measured = results.base, results.measured
    proxy = next(iter(results.verdicts.values())).proxy if results.verdicts else None
    reward = proxy or next(iter(measured[base].rewards), None)
    if results.verdicts and not results.strengths and reward and DIVERSITY in measured[base].measured.values:
        means = {model: results.figures[model][f"reward/{reward}"] for model in measured
                 if f"reward/{reward}" in results.figures[model]}
        diversity = {model: results.figures[model]["diversity/vendi"] for model in means}
        found.append(charts.front_chart(means, diversity, base, reward))
    if results.verdicts:
        drifts = {model: results.verdicts[model].style for model in shown_models(results)[1:]}
        found.append(charts.drift_chart(drifts, base, 2.0))
    found += [charts.ladder_chart(ladder, base, name) for name, ladder in results.ladders.items()
              if isinstance(ladder, dict)]
    return found


def comparison_curves(results: Results) -> dict | None:
    """Changes along the strengths of a run, along its steps, or along the weights of a guide."""
    if results.strengths:
        return by_strength(results, results.strengths)
    return by_weight(results) if results.weights else by_step(results)


def by_weight(results: Results) -> dict:
    """Rewards and diversity against the weight of a guide."""
    weights = [results.weights[model] for model in results.verdicts]
    verdicts = list(results.verdicts.values())
    series = {name: [verdict.rewards[name] for verdict in verdicts] for name in verdicts[0].rewards}
    unit = "weight of the guide"
    drawn = [charts.steps_chart(weights, series, "change of each reward, sd of the base", unit, even=True)]
    if all(verdict.diversity is not None for verdict in verdicts):
        drawn.append(charts.steps_chart(weights, {"diversity": [verdict.diversity.scaled(100) for verdict in verdicts]},
                                        "change of diversity, %", unit, even=True))
    about = ("The guide's own reward is what following it optimises. Where the other rewards, diversity or style begin "
             "to fall, following it harder exploits the guide and breaks the samples.")
    return {"title": "How hard the guide can be followed", "charts": drawn, "peaks": [], "about": about,
            "words": [(model, verdict.word) for model, verdict in results.verdicts.items()]}


def by_step(results: Results) -> dict | None:
    """Over-optimisation of a run's checkpoints."""
    curve = results.curve
    if curve is None:
        return None
    start = results.measured[results.base].measured.values
    drawn, peaks = [], []
    for name in results.measured[results.base].rewards:
        changes = [change(start[f"reward/{name}"], results.measured[model].measured.values[f"reward/{name}"])
                   for model in curve.models]
        best_of = [(float(np.sqrt(best_of_n_kl(n))), each.value) for n, each in results.best_of.get(name, {}).items()]
        fits = curve.fits.get(name, {})
        drawn.append(charts.curve_chart(curve.distance, changes, fits, best_of, f"change of {name}"))
        if fits:
            best = min(fits.values(), key=lambda each: each.error)
            peaks.append({"reward": name, "fit": best, "past": past_peak(best, curve.distance[-1])})
    varieties = [results.verdicts[model].diversity for model in curve.models]
    if all(diversity is not None for diversity in varieties):
        series = {"diversity": [diversity.scaled(100) for diversity in varieties]}
        drawn.append(charts.steps_chart(curve.steps, series, "change of diversity, %"))
    drawn.append(charts.steps_chart(curve.steps, {"KL": [mean_with_interval(kl) for kl in curve.kl]},
                                    "KL of sampling paths, nats"))
    words = [(model, results.verdicts[model].word) for model in curve.models]
    return {"title": "Over-optimisation", "charts": drawn, "peaks": peaks, "words": words, "about":
            "Each reward against the distance from the base, √KL of sampling paths. A reward that was optimised keeps "
            "rising; those that were not optimised show where the gain stops being real."}


def change(before: list[float], after: list[float]) -> Estimate:
    difference = np.array(after) - np.array(before)
    return mean_with_interval(difference[np.isfinite(difference)])


def tables(results: Results) -> list[dict]:
    """Figures over all prompts, grouped by the part of the metric's name before the slash."""
    groups: dict[str, dict[str, dict[str, Estimate]]] = {}
    for model, metric, estimate in summary(results):
        kind, _, name = metric.partition("/")
        groups.setdefault(kind, {}).setdefault(name, {})[model] = estimate
    return [{"kind": kind, "rows": rows, "models": [model for model in results.models
                                                    if any(model in cells for cells in rows.values())]}
            for kind, rows in groups.items()]
