"""`visalign compare` and `visalign evaluate`: models measured on the same prompts and seeds, with a verdict.

    sources -> generations (found or sampled) -> matched -> measured -> compared -> results.parquet, .json, report.html

The first model is the base the others are compared with.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from visalign.data.diversity_prompts import family_rows
from visalign.data.generations import find_generations
from visalign.errors import UserError
from visalign.evaluation.held_out import load_features
from visalign.evaluation.matching import Matched, match
from visalign.evaluation.measure import GenerationMetrics, MetricSuite, measure_generations
from visalign.evaluation.medium import TEXT, medium_of_entries
from visalign.evaluation.oracle import OracleReading
from visalign.evaluation.path_kl import path_kl
from visalign.evaluation.sources import AnswerPlan, SampleSource, SamplingPlan
from visalign.evaluation.strengths import StrengthChoice
from visalign.evaluators import diversity_axes as families
from visalign.evaluators import fidelity
from visalign.evaluators.diversity import spread_ratio
from visalign.evaluators.overoptimisation import FORMS, OveroptimisationFit, best_of_n, fit_overoptimisation
from visalign.evaluators.prompt_metrics import PromptMetrics
from visalign.evaluators.range_shift import range_shift
from visalign.evaluators.ranking import NoRanking, WinRate, elo, win_rate, wins_of
from visalign.evaluators.statistics import Estimate, TooFew, mean_with_interval, unknown
from visalign.evaluators.style import STYLE, entropies
from visalign.evaluators.text_length import LEAST_WORDS, EqualLength, length_controlled, shorter_median
from visalign.evaluators.training_seeds import SeedsChange
from visalign.evaluators.verdict import Verdict, VerdictLimits, verdict_of
from visalign.media.words import first_words
from visalign.rewards import check_sources_given
from visalign.rewards.registry import check_reward, load_rewards
from visalign.storage.sqlite_cache import SqliteCache
from visalign.storage.text_files import file_name

AnyPlan = SamplingPlan | AnswerPlan
KL_PROMPTS = 16
LENGTH = "words"
"""The style statistic of texts by which win rates are put at equal length."""
RANGE_SHIFT = {"distance": "range shift", "chance": "range shift by chance", "outside": "outside the base's range"}
"""How a model's scores lie to the base's (range_shift.py): what is measured, and the kind of its figures."""
BEST_OF = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Options:
    """rewards: specifications, or rewards. proxy: the name of the one that was optimised (None: none is known).
    features: an open_clip model, of texts a sentence encoder. reference: a source of real images. cache: of
    features (None: none)."""

    rewards: list
    proxy: str | None = None
    features: str = "tiny-clip"
    reference: str | None = None
    lpips: str | None = None
    limits: VerdictLimits = VerdictLimits()
    cache: str | None = "~/.cache/visalign/features.sqlite"
    device: str = "cpu"


@dataclass(frozen=True)
class Curve:
    """Checkpoints of a run: step, KL [C, P'] of sampling paths, and fits of each reward by form."""

    models: list[str]
    steps: list[int]
    kl: np.ndarray
    distance: list[float]
    fits: dict[str, dict[str, OveroptimisationFit]]


@dataclass(frozen=True)
class Results:
    """Everything that was measured. figures {model: {metric: Estimate}}; wins {reward: {model: against the base}};
    ladders
    {reward: {model: Elo}} or the reason there is none; best_of {reward: {n: change from one sample}}; weights {model:
    of the guide it followed}, where the models differ in that; strengths: of one run, where they differ in those. cut:
    {model: it and the base once more, at equal length}, of texts. over_seeds {metric: change} of all models together,
    where they are runs of one recipe. oracle: what labels say of the models, where there are any."""

    base: str
    models: list[str]
    matched: Matched
    measured: dict[str, GenerationMetrics]
    figures: dict[str, dict[str, Estimate]]
    verdicts: dict[str, Verdict]
    wins: dict[str, dict[str, WinRate]]
    ladders: dict[str, dict[str, Estimate] | str]
    best_of: dict[str, dict[int, Estimate]]
    curve: Curve | None
    notes: list[str] = field(default_factory=list)
    about: dict = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    cut: dict[str, EqualLength] = field(default_factory=dict)
    strengths: StrengthChoice | None = None
    over_seeds: dict[str, SeedsChange] = field(default_factory=dict)
    oracle: OracleReading | None = None

    @property
    def texts(self) -> bool:
        return medium_of_entries(self.matched.entries[self.base]) is TEXT


def check_comparable(options: Options) -> None:
    """Find mistakes before anything is loaded. Raises UserError."""
    for spec in options.rewards:
        check_reward(spec)
    names = [reward.name for reward in load_rewards(options.rewards)]
    if options.proxy is not None and options.proxy not in names:
        raise UserError(f"proxy {options.proxy}: names no reward; the rewards are {', '.join(names) or 'none'}")
    load_features(options.features, setting="features")
    if options.reference:
        find_generations(options.reference)


def compare_models(sources: list[SampleSource], plan: AnyPlan | None, out: Path, options: Options) -> Results:
    """Measure and compare. Raises UserError for what the user can fix."""
    check_comparable(options)
    if plan:
        check_sources_given(load_rewards(options.rewards), plan.prompts, "prompts")
        for source in sources:
            source.check_prompts(plan.prompts, f"{source.name}: prompt")
    out.mkdir(parents=True, exist_ok=True)
    found = {source.name: source.entries(plan, out / "generations" / file_name(source.name))
             for source in sources}
    medium = medium_of_entries(list(found.values()))
    matched = match(found)
    notes = [f"{name}: {note}" for name, entries in found.items() for note in entries.notes]
    notes += matched.notes
    tools = metric_suite(options)
    if tools.lpips is None and medium is not TEXT:
        notes.append("LPIPS was left out: its AlexNet was not found (--lpips FILE)")
    measured = {name: measure_generations(name, matched.prompts, entries, tools)
             for name, entries in matched.entries.items()}
    reference = reference_features(options.reference, tools) if options.reference else None
    refuse_mixed({name: metrics.features for name, metrics in measured.items()}
                 | ({} if reference is None else {"the reference": reference}))
    thing = "text" if medium is TEXT else "file"
    notes += [f"{name}: {metrics.alike} of {metrics.features[..., 0].numel()} generations are the same {thing} as "
              "another of their prompt" for name, metrics in measured.items() if metrics.alike]
    notes += [f"{name}: {note}" for name, metrics in measured.items() for note in metrics.measured.notes()]
    base = sources[0].name
    figures = {name: figures_of(name, metrics, measured[base], reference, matched.prompts, notes)
               for name, metrics in measured.items()}
    cut: dict[str, EqualLength] = {}
    for name in measured if medium is TEXT else ():
        if name != base and (found_cut := at_equal_length(matched, tools, base, name)):
            cut[name] = found_cut
            figures[base] |= cut_figures(found_cut.base, found_cut.words)
            figures[name] |= cut_figures(found_cut.after, found_cut.words)
        elif name != base:
            notes.append(f"{name}: answers of fewer than {LEAST_WORDS} words are not compared at equal length")
    verdicts = {name: verdict_of(measured[base].measured, metrics.measured, options.proxy, options.limits,
                                 cut.get(name))
                for name, metrics in measured.items() if name != base}
    return Results(base, list(measured), matched, measured, figures, verdicts, *rankings(measured, base),
                   best_of_curves(measured[base], options.proxy), curve_of(sources, plan, measured, base), notes,
                   about(sources, plan, options), cut=cut)


def at_equal_length(matched: Matched, tools: MetricSuite, base: str, name: str) -> EqualLength | None:
    """Measure two models once more, all answers cut to the median words of the one that writes shorter ones; None
    where that is too short to tell anything."""
    both = [matched.entries[base], matched.entries[name]]
    words = shorter_median([entry.content for row in rows for entry in row] for rows in both)
    if words < LEAST_WORDS:
        return None
    short = [[[replace(entry, content=first_words(entry.content, words)) for entry in row] for row in rows]
             for rows in both]
    return EqualLength(words, *(measure_generations(f"{model}, cut to {words} words", matched.prompts, rows, tools)
                                .measured for model, rows in zip((base, name), short, strict=True)))


def cut_figures(measured: PromptMetrics, words: int) -> dict[str, Estimate]:
    means = {metric: measured.mean(metric) for metric in measured.values}
    return {f"all answers cut to {words} words/{metric}": mean for metric, mean in means.items() if mean}


def about(sources: list[SampleSource], plan: AnyPlan | None, options: Options) -> dict:
    """How the numbers were made."""
    rewards = [getattr(spec, "name", str(spec)) for spec in options.rewards]
    return {"sources": {source.name: source.source for source in sources}, "rewards": rewards,
            "optimised reward": options.proxy, "features": options.features, "reference": options.reference,
            "sampling": plan and plan.about()}


def metric_suite(options: Options) -> MetricSuite:
    from visalign.evaluators.perceptual import Lpips, find_lpips

    weights = find_lpips(options.lpips)
    return MetricSuite(load_rewards(options.rewards, options.device),
                       load_features(options.features, options.device, "features"), Lpips(weights) if weights else None,
                       SqliteCache(options.cache) if options.cache else None)


def refuse_mixed(features: dict[str, torch.Tensor]) -> None:
    """Raise UserError when some are of images and some of videos, whose features cannot be compared."""
    sizes = {name: each.shape[-1] for name, each in features.items()}
    first, *others = sizes
    odd = next((name for name in others if sizes[name] != sizes[first]), None)
    if odd:
        raise UserError(f"{first} and {odd}: one holds images and the other videos, which cannot be compared")


def reference_features(source: str, tools: MetricSuite) -> torch.Tensor:
    """[N, D] of a set of real images."""
    entries = find_generations(source)
    parts = [tools.features.sample_features([entry.sample() for entry in entries[i:i + 64]]).numpy()
             for i in range(0, len(entries), 64)]
    return torch.from_numpy(np.concatenate(parts))


def figures_of(name: str, metrics: GenerationMetrics, base: GenerationMetrics, reference: torch.Tensor | None,
               prompts: list[str],
               notes: list[str]) -> dict[str, Estimate]:
    """Every number of one model, with intervals. What cannot be computed becomes a note."""
    found = {metric: metrics.measured.mean(metric) for metric in metrics.measured.values}
    found = {metric: estimate for metric, estimate in found.items() if estimate is not None}
    for statistic in base.style:
        low, high = np.quantile(base.style[statistic], [0.005, 0.995])
        within, across = entropies(metrics.style[statistic], low, high)
        found[f"entropy within/{statistic}"], found[f"entropy across/{statistic}"] = unknown(within), unknown(across)
    visual = "luminance" in base.style
    axis = {name: family_rows(prompts, of) if visual else [] for name, of in families.AXES.items()}
    if axis["PVS"]:
        found["families/PVS"] = families.tonal_variance(
            np.stack([metrics.style[name] for name in STYLE], -1)[axis["PVS"]])
    if metrics.features.shape[1] > 1:
        found["diversity/spread_ratio"] = spread_ratio(metrics.features)
        if axis["IDS"]:
            found["families/IDS"] = families.identity_similarity(metrics.features[axis["IDS"]])
        if axis["SDI"]:
            found["families/SDI"] = families.layout_dispersion([metrics.boxes[p] for p in axis["SDI"]])
    for reward, scores in metrics.rewards.items() if metrics is not base else ():
        shift = range_shift(base.rewards[reward].double().numpy(), scores.double().numpy())
        found |= {f"{RANGE_SHIFT[part]}/{reward}": unknown(value) for part, value in shift._asdict().items()
                  if np.isfinite(value)} if shift else {}
    against = reference if reference is not None else (None if metrics is base else base.features.flatten(0, 1))
    if against is None:
        return found
    what = "references" if reference is not None else "base"
    rows = [prompt for prompt in prompts for _ in range(metrics.features.shape[1])]
    fake = metrics.features.flatten(0, 1)
    measures = {"precision and recall": lambda: fidelity.precision_recall(against, fake, rows),
                "density and coverage": lambda: fidelity.density_coverage(against, fake, rows),
                "KID": lambda: {"KID": fidelity.kid(against, fake, rows)},
                "CMMD": lambda: {"CMMD": fidelity.cmmd(against, fake, rows)},
                "FID": lambda: {"FID": fidelity.fid(against, fake, rows)}}
    if reference is not None and axis["ASC"]:
        measures["ASC"] = lambda: {"ASC": families.style_coverage(metrics.features[axis["ASC"]], reference)}
    for measure, run in measures.items():
        try:
            found |= {f"against the {what}/{key}": value for key, value in run().items()}
        except TooFew as error:
            note = f"{measure} was left out: {error}"
            notes.extend([] if note in notes else [note])
    return found


def rankings(measured: dict[str, GenerationMetrics], base: str) -> tuple[dict, dict]:
    """Win rates against the base, and an Elo ladder, for every reward."""
    wins: dict[str, dict[str, WinRate]] = {}
    ladders: dict[str, dict[str, Estimate] | str] = {}
    names = list(measured)
    for reward in measured[base].rewards:
        scores = {name: metrics.rewards[reward].double().numpy() for name, metrics in measured.items()}
        against = {name: win_rate(scores[name], scores[base]) for name in names if name != base}
        if LENGTH in measured[base].style:
            against = {name: rate and replace(rate, at_equal_length=length_controlled(
                scores[name], scores[base], measured[name].style[LENGTH], measured[base].style[LENGTH]))
                for name, rate in against.items()}
        wins[reward] = {name: rate for name, rate in against.items() if rate is not None}
        if len(names) > 1:
            try:
                ladders[reward] = elo(wins_of([scores[name] for name in names]), names)
            except NoRanking as error:
                ladders[reward] = str(error)
    return wins, ladders


def best_of_curves(base: GenerationMetrics, proxy: str | None) -> dict[str, dict[int, Estimate]]:
    """What choosing the best of n by the proxy would give, in every reward, against one sample of the base."""
    if proxy not in base.rewards:
        return {}
    chooser = base.rewards[proxy].double().numpy()
    if not np.isfinite(chooser).all():
        return {}
    found: dict[str, dict[int, Estimate]] = {}
    for name, scores in base.rewards.items():
        values = scores.double().numpy()
        if np.isfinite(values).all():
            found[name] = {n: mean_with_interval(best_of_n(chooser, values, n) - values.mean(1))
                           for n in BEST_OF if n <= values.shape[1]}
    return found


def curve_of(sources: list[SampleSource], plan: AnyPlan | None, measured: dict[str, GenerationMetrics],
             base: str) -> Curve | None:
    """KL of every checkpoint, and fits of each reward against it; None where the sources are not checkpoints."""
    checkpoints = [source for source in sources if source.step is not None]
    if len(checkpoints) < 2 or plan is None:
        return None
    kls = np.stack([path_kl(source.load(plan.device), source.given(plan.prompts[:KL_PROMPTS]), steps=plan.steps,
                            guidance_scale=plan.guidance_scale, seed=plan.seed + 1) for source in checkpoints])
    distance = np.sqrt(np.maximum(kls.mean(1), 0))
    fits: dict[str, dict[str, OveroptimisationFit]] = {}
    names = [source.name for source in checkpoints]
    for metric in (name for name in measured[base].measured.values if name.startswith("reward/")):
        start = np.array(measured[base].measured.values[metric])
        rewards = np.stack([np.array(measured[name].measured.values[metric]) - start for name in names])
        known = np.isfinite(rewards).all(0)
        if (distance > 0).sum() >= 3 and known.any():
            fits[metric.removeprefix("reward/")] = {
                form: fit_overoptimisation(distance, rewards[:, known], form) for form in FORMS}
    return Curve(names, [source.step for source in checkpoints], kls, distance.tolist(), fits)
