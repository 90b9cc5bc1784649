"""`visalign guide sweep`: one latent reward followed ever harder, measured like models against the unguided one.

The guide's own reward of what came out is the optimised one. What rises in the other judges is real; where they,
variety or style fall while the guide's own rises, it is being exploited.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from visalign.config import Model
from visalign.errors import UserError
from visalign.generators import inspect_checkpoint, load_generator
from visalign.generators.base import Generator
from visalign.guidance import Guided, GuideJudge, load_guide
from visalign.jobs.compare import Options, Results, compare
from visalign.jobs.generate import Following
from visalign.jobs.results import write_results
from visalign.jobs.subjects import Plan, Subject


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
            raise UserError(f"sweep: the weights {', '.join(f'{w:g}' for w in self.weights)} must hold 0, which is the "
                            "model alone, and at least one other")


@dataclass(frozen=True)
class SweepReport:
    results: Results
    lines: list[str]
    page: Path


def sweep(model: Model, plan: Sweep, rewards: list, features: str, out: Path, device: str = "cpu") -> SweepReport:
    """Sample at every weight and compare; resumes where it was killed. Raises UserError for what the user can mend."""
    from visalign.pages.compare import write_page

    if (out / "results.json").exists():
        raise UserError(f"out {out}: already holds results; choose another folder with --out")
    ordered = sorted(set(plan.weights), key=abs)
    for weight in ordered:
        plan.follow(weight).check()
    loaded, guide = Once(model), plan.follow(0).guide
    own = GuideJudge(lambda: load_guide(guide, loaded()), plan.dimension, inspect_checkpoint(model).family.modality,
                     name=f"guide {plan.dimension}", batch_size=16)
    subjects = [subject(model, plan.follow(weight), f"weight {weight:g}", loaded) for weight in ordered]
    options = Options([own, *rewards], own.name, features, device=device)
    results = compare(subjects, Plan(plan.prompts, plan.seeds, plan.steps, plan.guidance_scale), out, options)
    results = replace(results, weights=dict(zip(results.models, ordered, strict=True)))
    results.about.update({"guide": str(guide), "dimension": plan.dimension})
    write_page(results, out / "report.html")
    write_results(results, out)  # last: they say that the command is done
    return SweepReport(results, lines_of(results), out / "report.html")


class Once:
    """Loads a generator on first use, and the same one from then on."""

    def __init__(self, model: Model):
        self.model, self._generator = model, None

    def __call__(self) -> Generator:
        self._generator = self._generator or load_generator(self.model)
        return self._generator


def subject(model: Model, following: Following, name: str, load: Once) -> Subject:
    return Subject(name, model.source,
                   lambda: Guided(load(), load_guide(following.guide, load()), following.guiding),
                   {"model": model.model_dump(mode="json"), **following.identity()})


def lines_of(results: Results) -> list[str]:
    """One line a weight: each judge's change in standard deviations, variety's in percent, and the verdict."""
    lines = []
    for model, verdict in results.verdicts.items():
        changes = [f"{name} {change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
                   for name, change in verdict.rewards.items()]
        variety = [f"variety {100 * verdict.variety.value:+.0f} %"] if verdict.variety else []
        lines.append(f"{model:12} {', '.join(changes + variety)}: {verdict.word}")
    return lines
