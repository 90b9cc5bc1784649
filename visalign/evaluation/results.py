"""Results as files: a tidy table, one number per row, and JSON; every plot of the page can be redrawn from them."""

import csv
import io
import json
import math
from dataclasses import asdict, is_dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from visalign.evaluation.compare import RANGE_SHIFT, Results
from visalign.evaluation.oracle import oracle_figures, oracle_json
from visalign.evaluators.statistics import Estimate
from visalign.evaluators.verdict import REFUSALS, percent
from visalign.storage.files import write_atomically

DISTANCE, CHANCE, OUTSIDE = RANGE_SHIFT.values()
SCHEMA = pa.schema([("model", pa.string()), ("metric", pa.string()), ("prompt", pa.string()), ("value", pa.float64()),
                    ("low", pa.float64()), ("high", pa.float64()), ("n", pa.int64())])
"""prompt: null for a figure over all of them, which then has an interval (null where none was estimated)."""


def result_rows(results: Results) -> list[dict]:
    """Per-prompt values first, then figures over all prompts."""
    rows = []
    for model, metrics in results.measured.items():
        for metric, values in metrics.measured.values.items():
            rows += [{"model": model, "metric": metric, "prompt": prompt, "value": _finite(value), "low": None,
                      "high": None, "n": metrics.measured.seeds}
                     for prompt, value in zip(metrics.measured.prompts, values, strict=True)]
    count = len(results.matched.prompts)
    for model, metric, estimate in summary(results):
        rows.append({"model": model, "metric": metric, "prompt": None, "n": count,
                     **{part: _finite(getattr(estimate, part)) for part in ("value", "low", "high")}})
    return rows


def summary(results: Results) -> list[tuple[str, str, Estimate]]:
    """(model, metric, estimate) of every figure over all prompts."""
    rows = [(model, metric, estimate) for model, found in results.figures.items()
            for metric, estimate in found.items()]
    for model, verdict in results.verdicts.items():
        if verdict.diversity is not None:
            rows.append((model, "change/diversity (Vendi score less 1), relative", verdict.diversity))
        rows += [(model, f"change/{name}, standard deviations of the base", each)
                 for name, each in verdict.rewards.items()]
        rows += [(model, f"drift/{name}, standard deviations of the base", each)
                 for name, each in verdict.style.items()]
    rows += [(model, f"win rate against {results.base}/{reward}", rate.share)
             for reward, wins in results.wins.items() for model, rate in wins.items()]
    rows += [(model, f"win rate at equal length against {results.base}/{reward}", rate.at_equal_length)
             for reward, wins in results.wins.items() for model, rate in wins.items() if rate.at_equal_length]
    rows += [(model, f"elo/{reward}", each) for reward, ladder in results.ladders.items() if isinstance(ladder, dict)
             for model, each in ladder.items()]
    rows += [(results.base, f"best of {n}/{reward}", each) for reward, curve in results.best_of.items()
             for n, each in curve.items()]
    rows += [(results.models[-1], f"over training seeds/{metric}", found.change)
             for metric, found in results.over_seeds.items()]
    rows += oracle_figures(results.oracle)
    if results.curve:
        rows += [(model, "kl/sampling paths, nats", Estimate(float(kl.mean()), math.nan, math.nan))
                 for model, kl in zip(results.curve.models, results.curve.kl, strict=True)]
    return rows


def refusals_in_words(results: Results) -> str:
    """The share of each model's answers that declines, "" of images and videos."""
    shares = [f"{model} {percent(found[REFUSALS], '')}" for model, found in results.figures.items()
              if REFUSALS in found]
    return f"answers that decline: {', '.join(shares)}" if shares else ""


def range_shifts_in_words(results: Results) -> list[str]:
    """Of each model compared, how far every reward's scores have moved from where the base's are."""
    said = []
    for model in results.verdicts:
        found = results.figures[model]
        each = [f"{reward} {found[f'{DISTANCE}/{reward}'].value:.2f} apart"
                + (f" ({found[f'{CHANCE}/{reward}'].value:.2f} by chance)" if f"{CHANCE}/{reward}" in found else "")
                + f", {100 * found[f'{OUTSIDE}/{reward}'].value:.0f} % outside"
                for reward in results.measured[model].rewards if f"{DISTANCE}/{reward}" in found]
        said += [f"scores of {model} and of {results.base}: {'; '.join(each)}"] if each else []
    return said


def results_json(results: Results) -> dict:
    """Everything but the per-prompt values, which are in the table."""
    curve = results.curve
    return plain_values({
        "base": results.base, "models": results.models, "prompts": results.matched.prompts,
        "seeds": results.matched.seeds, "verdicts": results.verdicts, "figures": results.figures, "wins": results.wins,
        "ladders": results.ladders, "best_of": results.best_of, "notes": results.notes, "about": results.about,
        "curve": None if curve is None else {"models": curve.models, "steps": curve.steps, "fits": curve.fits,
                                             "distance": curve.distance, "kl": curve.kl.mean(1).tolist()}}
        | ({"strengths": results.strengths} if results.strengths else {})
        | ({"over_training_seeds": results.over_seeds} if results.over_seeds else {})
        | ({"oracle": oracle_json(results.oracle)} if results.oracle else {}))


def plain_values(value):
    """JSON without NaN and infinity, which other languages refuse: they become null. Estimates become mappings."""
    if isinstance(value, Estimate):
        return {name: _finite(each) for name, each in value._asdict().items()}
    if is_dataclass(value):
        return {name: plain_values(getattr(value, name)) for name in asdict(value)}
    if isinstance(value, dict):
        return {str(key): plain_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(each) for each in value]
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def results_csv(rows: list[dict]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, SCHEMA.names)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write_results(results: Results, out: Path) -> None:
    """results.parquet and results.json in `out`, each whole or absent."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(result_rows(results), SCHEMA), sink, compression="zstd")
    write_atomically(out / "results.parquet", sink.getvalue().to_pybytes())
    write_atomically(out / "results.json", json.dumps(results_json(results), indent=2, allow_nan=False).encode())
