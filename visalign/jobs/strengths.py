"""`visalign evaluate RUN --strengths`: one run at several strengths, on the same prompts and seeds, and which to take.

Adapters are scaled where they are; of a run of all weights the weights are interpolated. Strength 0 is the base.
"""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from visalign.config import LanguageSettings, OfflineConfig, OnlineConfig
from visalign.errors import UserError
from visalign.evaluation.compare import Results, compare_models
from visalign.evaluation.results import write_results
from visalign.evaluation.source_words import parse_source
from visalign.evaluation.sources import SampleSource, run_config, run_source
from visalign.evaluation.strengths import (
    StrengthChoice,
    choice_in_words,
    choose_strength,
    read_strengths,
    strength_name,
)
from visalign.evaluators.verdict import VerdictLimits
from visalign.generators import load_generator
from visalign.generators.base import Generator
from visalign.generators.files.sketching import check_adapter
from visalign.generators.interpolation import WeightAverage
from visalign.generators.lora.layers import one_kind
from visalign.jobs.evaluate import EvaluationRequest, model_for, options_of, plan_for, run_of
from visalign.jobs.soup import base_of, finished_run


def evaluate_strengths(source: str, strengths: str, asked: EvaluationRequest, out: Path,
                       budget: float | None = None) -> Results:
    """Measure a finished run at each strength and choose; writes the results and the page. budget: the share of
    diversity that may be lost (None: that of the run's guard).

    Raises UserError, before anything is loaded, for what has no strength or could not be chosen by.
    """
    from visalign.reports.comparison import write_comparison

    tried, (run, config) = read_strengths(strengths), _run_named(source)
    if (out / "results.json").exists():
        raise UserError(f"out {out}: already holds results; choose another folder with --out")
    model_for([source], asked.settings)  # refuses settings, of which a run brings its own
    budget = config.guard.budget if budget is None else budget
    options = replace(options_of(asked, config), limits=VerdictLimits(budget=budget))
    if options.proxy is None:
        raise UserError("evaluate --strengths: no reward is known as the optimised one, whose gain a strength is "
                        "chosen by; name one with --proxy NAME")
    if asked.seeds < 2:
        raise UserError("evaluate --strengths: --samples-per-prompt 1 shows no diversity; give at least 2")
    kind, sources = sources_at(run, config, tried)
    results = compare_models(sources, plan_for(sources, asked, config), out, options)
    by_model = dict(zip([source.name for source in sources], tried, strict=True))
    best = choose_strength(by_model, results.verdicts, options.proxy, budget)
    choice = StrengthChoice(run.resolve().name, by_model, options.proxy, budget, best,
                            choice_in_words(by_model, results.verdicts, options.proxy, budget, best),
                            _command(run, by_model[best]) if best and kind in ("lora", "full") else None)
    notes = ["the strength was chosen on these prompts and seeds; measure it on others (--prompts, --seed) before its "
             "figures are relied on"] if best else []
    if config.model.loras or config.model.lora.start:
        notes.append("strength 0 is the checkpoint without the LoRAs that the run began with, which its export holds")
    results = replace(results, notes=[*results.notes, *notes], strengths=choice)
    write_comparison(results, out / "report.html")
    write_results(results, out)  # last, since they mark the command as done
    return results


def _run_named(source: str) -> tuple[Path, OfflineConfig | OnlineConfig]:
    words = parse_source(source)
    if words.negative or words.lora or run_of(words.path) != words.path:
        raise UserError(f"evaluate {source}: --strengths needs the folder of a finished run, alone")
    config = run_config(words.path)
    if isinstance(config, LanguageSettings):
        raise UserError(f"evaluate {source}: --strengths is for image and video models, and this run is a language "
                        "model's")
    return words.path, config


def _command(run: Path, strength: float) -> str:
    return shlex.join(["visalign", "soup", f"{run}={strength:g}", "--out", f"{run}-at-{strength:g}"])


def sources_at(run: Path, config: OfflineConfig | OnlineConfig,
               strengths: list[float]) -> tuple[str, list[SampleSource]]:
    """The run at each strength, in one generator that is loaded once; and its kind: that of its adapter, or `full`.

    Raises UserError for an unfinished run, and for one that has no strengths between 0 and 1.
    """
    if config.model.tuning == "user":
        kind, own = "user", run_source("aligned", run)
    else:
        finished_run(run, "evaluate")
        own = run_source("aligned", run)
        kind = "full" if config.model.tuning == "full" else _kind_of(run, config)
    if kind == "dora":
        raise UserError(f"evaluate {run}: is a dora, which has no strengths but 0 and 1, since it sets the lengths of "
                        "rows; --strengths takes runs of the other kinds of LoRA, and of all weights")
    at = _LoadedOnce(lambda device: _whole(run, config, device) if kind == "full" else _adapted(own, device))
    return kind, [replace(own, name=strength_name(each), load=at(each), identity=own.identity | {"strength": each})
                  for each in strengths]


def _kind_of(run: Path, config: OfflineConfig | OnlineConfig) -> str:
    found = check_adapter(config.model.without_loras(), run / "export")
    return one_kind((each for layers in found.values() for each in layers.values()), f"evaluate {run}")


SetStrength = Callable[[float], None]


def _adapted(source: SampleSource, device: str) -> tuple[Generator, SetStrength]:
    generator = source.load(device)
    return generator, generator.set_adapter_strength


def _whole(run: Path, config: OfflineConfig | OnlineConfig, device: str) -> tuple[Generator, SetStrength]:
    generator = load_generator(base_of(config), device)
    average = WeightAverage(generator)
    return generator, lambda strength: average.put([(strength, run / "export" / "pipeline")])


class _LoadedOnce:
    """Loads on first use, and sets the strength whenever the generator is asked for."""

    _loaded: tuple[Generator, SetStrength] | None = None

    def __init__(self, load: Callable[[str], tuple[Generator, SetStrength]]):
        self._load = load

    def __call__(self, strength: float) -> Callable[[str], Generator]:
        def load(device: str) -> Generator:
            self._loaded = self._loaded or self._load(device)
            generator, set_strength = self._loaded
            set_strength(strength)
            return generator

        return load
