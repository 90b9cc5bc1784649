"""`visalign guide sweep`: one latent reward followed with rising weight, compared with unguided sampling.

The guide's own reward of the result is the optimised one. What rises in the other rewards is a real gain; where they,
diversity or style fall while the guide's own rises, it is being exploited.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.evaluation.compare import Options, Results, compare_models
from visalign.evaluation.results import write_results
from visalign.evaluation.sources import SampleSource, SamplingPlan
from visalign.generators import load_generator, locate_model
from visalign.generators.base import Generator
from visalign.guidance import Guided, GuideReward, load_guide
from visalign.sampling.folder import Following


@dataclass(frozen=True)
class Sweep:
    """dimension: of the guide. weights: to try, 0 among them. follow(weight): how the guide is followed."""

    dimension: str
    weights: list[float]
    prompts: list[str]
    seeds: int
    steps: int
    guidance_scale: float
    follow: Callable[[float], Following]

    def __post_init__(self):
        if 0 not in self.weights or len(set(self.weights)) < 2:
            raise UserError(f"sweep: the weights {', '.join(f'{w:g}' for w in self.weights)} must include 0, the "
                            "unguided model, and at least one other")


@dataclass(frozen=True)
class SweepReport:
    results: Results
    lines: list[str]
    page: Path


def run_sweep(model: ModelSettings, plan: Sweep, rewards: list, features: str, out: Path,
              device: str = "cpu") -> SweepReport:
    """Sample at every weight and compare; resumes where it was killed. Raises UserError for what the user can fix."""
    from visalign.reports.comparison import write_comparison

    if (out / "results.json").exists():
        raise UserError(f"out {out}: already holds results; choose another folder with --out")
    ordered = sorted(set(plan.weights), key=abs)
    for weight in ordered:
        plan.follow(weight).check()
    loaded, guide = Once(model, device), plan.follow(0).guide
    own = GuideReward(lambda: load_guide(guide, loaded()), plan.dimension, locate_model(model).family.modality,
                     name=f"guide {plan.dimension}", batch_size=16)
    sources = [guided_source(model, plan.follow(weight), f"weight {weight:g}", loaded) for weight in ordered]
    options = Options([own, *rewards], own.name, features, device=device)
    results = compare_models(sources, SamplingPlan(plan.prompts, plan.seeds, plan.steps, plan.guidance_scale), out,
                             options)
    results = replace(results, weights=dict(zip(results.models, ordered, strict=True)))
    results.about.update({"guide": str(guide), "dimension": plan.dimension})
    write_comparison(results, out / "report.html")
    write_results(results, out)  # last, since they mark the command as done
    return SweepReport(results, lines_of(results), out / "report.html")


class Once:
    """Loads a generator on first use and keeps it."""

    def __init__(self, model: ModelSettings, device: str):
        self.model, self.device, self._generator = model, device, None

    def __call__(self) -> Generator:
        self._generator = self._generator or load_generator(self.model, self.device)
        return self._generator


def guided_source(model: ModelSettings, following: Following, name: str, load: Once) -> SampleSource:
    return SampleSource(name, model.source,
                   lambda device: Guided(load(), load_guide(following.guide, load()), following.guiding),
                   {"model": model.model_dump(mode="json"), **following.identity()})


def lines_of(results: Results) -> list[str]:
    """One line per weight: each reward's change in standard deviations, diversity's in percent, and the verdict."""
    lines = []
    for model, verdict in results.verdicts.items():
        changes = [f"{name} {change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
                   for name, change in verdict.rewards.items()]
        diversity = [f"diversity {100 * verdict.diversity.value:+.0f} %"] if verdict.diversity else []
        lines.append(f"{model:12} {', '.join(changes + diversity)}: {verdict.word}")
    return lines
