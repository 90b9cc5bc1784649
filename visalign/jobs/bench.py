"""`visalign bench`: a public suite from its prompts to its own table: generations that are missing are made, all are
scored, and every figure has an interval over prompts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from visalign.data.entry import Entry
from visalign.data.suites import SuitePrompt, read_suite
from visalign.errors import UserError, nearest
from visalign.evaluation.sources import SampleSource
from visalign.evaluation.suites import SUITE_SCORERS, SuiteFigure, SuiteScorer, build_scorer
from visalign.evaluators.statistics import Estimate
from visalign.jobs.evaluate import EvaluationRequest, plan_for, read_names, sources_of
from visalign.storage.files import write_atomically
from visalign.storage.text_files import file_name, normal_form
from visalign.storage.yaml_files import parse_yaml

LEAST_SCORED = 0.5
"""Below this share of scored samples there is no table, since what cannot be scored is seldom as good as the rest."""


@dataclass(frozen=True)
class SuiteResult:
    """One model's table. prompts: scored, of how many; refused: why samples were left out."""

    model: str
    figures: list[SuiteFigure]
    prompts: int
    of: int
    refused: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the terminal; the suite's score last and marked."""
        wide = max(len(each.name) for each in self.figures) + 2
        found = [f"{self.model}: {self.prompts} of {self.of} prompts"]
        found += [f"{'*' if each.headline else ' '} {each.name:{wide}}{in_figures(each.value)}  ({each.count})"
                  for each in self.figures]
        if self.refused:
            found.append(f"  {len(self.refused)} samples were left out: {self.refused[0]}")
        return found


def in_figures(value: Estimate) -> str:
    """'0.653 [0.601, 0.702]'; of a single prompt without an interval."""
    if value.high - value.low == float("inf"):
        return f"{value.value:.3f} (one prompt, no interval)"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def run_suite(suite: str, given: tuple[str, ...], settings: tuple[str, ...], asked: EvaluationRequest,
              out: Path) -> list[SuiteResult]:
    """Score a suite (NAME:PATH) of sources, given as SOURCE or NAME=SOURCE. settings: of its scorer, `key=value`.

    asked: how models are sampled; seeds 0 stands for as many as the suite asks for. Writes OUT/results.json. Raises
    UserError, for whatever is known to be wrong or missing before a model is loaded.
    """
    kind, items = read_suite(suite)
    name, _, path = suite.partition(":")
    scorer = build_scorer(name, path, scorer_settings(settings, name), asked.device)
    items = scorer.used(items)
    if (out / "results.json").exists():
        raise UserError(f"out {out}: already holds results; choose another folder with --out")
    scorer.check(items)
    named = read_names(tuple(each if "=" in each else f"{called(each)}={each}" for each in given), "bench")
    sources, config = sources_of(named, asked.settings)
    if texts := next((source for source in sources if source.texts), None):
        raise UserError(f"bench {texts.source}: makes texts; the suites are of images and videos")
    request = EvaluationRequest(prompts=suite, seeds=asked.seeds or kind.needed, steps=asked.steps,
                                guidance_scale=asked.guidance_scale, seed=asked.seed, device=asked.device)
    plan = plan_for(sources, request, config)
    if plan is not None:
        plan = replace(plan, prompts=list(dict.fromkeys(item.prompt for item in items)))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out {out}: cannot be written ({error.strerror})") from None
    results = [score_source(source, source.entries(plan, out / "samples" / file_name(source.name)), items, scorer)
               for source in sources]
    write_atomically(out / "results.json", (json.dumps([suite_json(each, suite) for each in results], indent=2)
                                            + "\n").encode())
    return results


def called(source: str) -> str:
    """What a source is called whose name nobody said."""
    return Path(source.rstrip("/")).name or source


def scorer_settings(given: tuple[str, ...], name: str) -> dict:
    """Settings from `key=value`. Raises UserError for one that is not of that form, or is not a setting."""
    found = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise UserError(f"bench {name} --with {each}: expected KEY=VALUE, such as threshold=0.3")
        allowed = {field: kind.type for field, kind in SUITE_SCORERS[name].__dataclass_fields__.items()
                   if field not in ("path", "device")}
        if key not in allowed:
            raise UserError(f"bench {name} --with {each}: {name} has no setting {key}"
                            + (nearest(key, allowed) if allowed else " (it has none)"))
        found[key] = value if allowed[key] is str else parse_yaml(value, f"bench {name} --with {each}")
    return found


def score_source(source: SampleSource, entries: list[Entry], items: list[SuitePrompt],
                 scorer: SuiteScorer) -> SuiteResult:
    """Raises UserError where nothing can be scored, or less than half of what is there."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.prompt, []).append(entry)
    of = {item: groups.get(normal_form(item.prompt), []) for item in items}
    there = sum(map(len, of.values()))
    if not there:
        raise UserError(f"bench {source.source}: holds no generation of the suite's prompts")
    refused: list[str] = []
    scored: list[tuple[SuitePrompt, list]] = []
    with tqdm(total=there, desc=f"scoring {source.name}", unit="file") as progress:
        for item, group in of.items():
            values = list(_scored(item, group, scorer, refused, progress))
            if values:
                scored.append((item, values))
    if len(refused) > (1 - LEAST_SCORED) * there:
        raise UserError(f"bench {source.source}: {len(refused)} of {there} samples could not be scored; the first: "
                        f"{refused[0]}")
    figures = scorer.figures([item for item, _ in scored], [values for _, values in scored])
    return SuiteResult(source.name, figures, len(scored), len(items), tuple(refused))


def _scored(item: SuitePrompt, group: list[Entry], scorer: SuiteScorer, refused: list[str],
            progress: tqdm) -> Iterator:
    """What each sample is worth; one that cannot be read or scored is named in `refused`."""
    for entry in group:
        try:
            sample = entry.sample(scorer.frames)
            if sample.modality != scorer.modality:
                raise UserError(f"is of kind {sample.modality}; this suite scores {scorer.modality}s")
            yield scorer.score(item, sample)
        except UserError as error:
            refused.append(f"{entry.path}: {error}")
        progress.update()


def suite_json(result: SuiteResult, suite: str) -> dict:
    """NaN and infinite bounds as null, which JSON can hold."""
    def number(value: float) -> float | None:
        return value if abs(value) < float("inf") else None

    return {"suite": suite, "model": result.model, "prompts": result.prompts, "of": result.of,
            "refused": list(result.refused), "figures": [
                {"name": each.name, **{part: number(getattr(each.value, part)) for part in ("value", "low", "high")},
                 "count": each.count, "headline": each.headline} for each in result.figures]}
