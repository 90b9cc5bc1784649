"""Which models a command names, and the defaults for sampling and scoring them."""

from dataclasses import dataclass, replace
from pathlib import Path

from visalign.config import LanguageSettings, ModelSettings, OfflineConfig, OnlineConfig
from visalign.config.load import model_of
from visalign.data.prompts import read_prompts
from visalign.errors import UserError, nearest
from visalign.evaluation.compare import Options, Results, compare_models
from visalign.evaluation.evidence import check_plan, evidence_in_words
from visalign.evaluation.medium import TEXT, VISUAL
from visalign.evaluation.oracle_labels import OracleLabels, oracle_reading, read_oracle
from visalign.evaluation.results import write_results
from visalign.evaluation.source_words import AWAY_FROM, parse_source
from visalign.evaluation.sources import (
    AnswerPlan,
    SampleSource,
    SamplingPlan,
    base_source,
    checkpoint_sources,
    is_language_run,
    is_run_of_language,
    language_sources,
    run_config,
    source_of,
)
from visalign.evaluation.usefulness import usefulness_in_words
from visalign.evaluators.statistics import Estimate
from visalign.generators.files.locating import sampling_for
from visalign.jobs.training_seeds import (
    changes_over_seeds,
    runs_of_one_recipe,
    seeds_in_words,
    sources_of_runs,
)
from visalign.language.answer_sources import answer_plan, answer_source, is_language_model
from visalign.storage.run_folder import read_metrics
from visalign.storage.text_files import file_name

LONGEST_NAME = 80
RunSettings = OfflineConfig | OnlineConfig | LanguageSettings
DEFAULT_REWARDS = ("tiny-reward", "tiny-clip")
DEFAULT_TEXT_REWARDS = ("relevance", "repetition")


@dataclass(frozen=True)
class EvaluationRequest:
    """What a user may leave open (None): then a run's own settings are taken, or the defaults.

    settings: `key=value` of models that no run brings its own settings for. gold: the reward at whose peak, over a
    run's checkpoints, the others' values are proposed as thresholds. effect: the change, in standard deviations of the
    base, for which evidence is planned.
    """

    prompts: str | None = None
    max_prompts: int | None = None
    seeds: int = 16
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    rewards: tuple[str, ...] | None = None
    proxy: str | None = None
    features: str | None = None
    reference: str | None = None
    lpips: str | None = None
    cache: str | None = "~/.cache/visalign/features.sqlite"
    device: str = "cpu"
    settings: tuple[str, ...] = ()
    gold: str | None = None
    effect: float | None = None
    oracle: str | None = None
    oracle_label: str = "label"
    oracle_range: tuple[float, float] = (0.0, 1.0)
    oracle_random: bool = False


def evaluate_source(source: str, asked: EvaluationRequest, out: Path, checkpoints: str = "last") -> Results:
    """A run or checkpoint against its untrained model, a source with a negative adapter against the same without it, or
    any other source alone; writes the results and the page.

    checkpoints: `last`, or `all` of those a run has kept. Raises UserError for what the user can fix.
    """
    words = parse_source(source)
    path = words.path
    run = run_of(path)
    if words.negative:
        if checkpoints == "all":
            raise UserError(f"evaluate {source}: --checkpoints all measures a run alone; leave {AWAY_FROM} and what "
                            "follows out")
        return compare_sources({"plain": source.partition(AWAY_FROM)[0], "away": source}, asked, out)
    if asked.gold is not None and checkpoints != "all":
        raise UserError(f"evaluate --gold {asked.gold}: looks for its peak over a run's checkpoints; give "
                        "--checkpoints all as well")
    if checkpoints == "all" and (run is None or run != path):
        raise UserError(f"evaluate {source}: --checkpoints all needs the folder of a run")
    if run is not None and is_language_run(run):
        return _finish(_answers_of_run(run, checkpoints, asked), asked, out, run_config(run), run)
    name = path.name if path.exists() else source
    if is_language_model(source):
        return _finish([answer_source(name, source)], asked, out, None)
    like = model_for([source], asked.settings)
    if run is None:
        sources = [source_of(name, source, like)]
    elif checkpoints == "all":
        sources = [base_source("base", run), *checkpoint_sources(run)]
    else:
        sources = [base_source("base", run), source_of("aligned", source)]
    return _finish(sources, asked, out, None if run is None else run_config(run), run)


def evaluate_runs(folders: list[Path], asked: EvaluationRequest, out: Path) -> Results:
    """Finished runs of one recipe with other training seeds, against their untrained model; writes the results and the
    page. Raises UserError."""
    config = runs_of_one_recipe(folders)
    if asked.settings:
        raise UserError(f"set {asked.settings[0]}: {folders[0]} is a run and brings its own model settings; leave "
                        "--set out")
    return _finish(sources_of_runs(folders), asked, out, config, over_seeds=True)


def _answers_of_run(run: Path, checkpoints: str, asked: EvaluationRequest) -> list[SampleSource]:
    """What a language model's run answered at its start and end, or at every measurement; with prompts of the user's,
    the models before and after it, to be asked."""
    if asked.prompts or asked.max_prompts:
        if checkpoints == "all":
            raise UserError("prompts: of a language model's run, --checkpoints all compares the answers it measured "
                            "itself while it was trained; leave --prompts and --max-prompts out")
        return [answer_source("base", run_config(run).model.source), answer_source("aligned", str(run))]
    found = language_sources(run)
    if len(found) < 2:
        raise UserError(f"run {run}: has measured held-out answers only once, at its start; it has not finished")
    return found if checkpoints == "all" else [found[0], replace(found[-1], name="aligned")]


def default_folder(source: str) -> Path:
    """The default output of `evaluate`: evaluations/ and the full name of the source."""
    path = Path(source).expanduser()
    name = path.resolve().stem if path.is_file() else path.resolve().name if path.is_dir() else source
    return Path("evaluations") / file_name(name)


def compare_sources(named: dict[str, str], asked: EvaluationRequest, out: Path) -> Results:
    """Models by name, the first the base; writes the results and the page. Raises UserError."""
    if len(named) < 2:
        raise UserError("compare: name at least two models, such as base=tiny-sdxl aligned=runs/quickstart")
    sources, config = sources_of(named, asked.settings, asked=bool(asked.prompts or asked.max_prompts))
    return _finish(sources, asked, out, config)


def sources_of(named: dict[str, str], settings: tuple[str, ...] = (),
               asked: bool = False) -> tuple[list[SampleSource], RunSettings | None]:
    """Sources by name, and the settings of the first run among them, with which all are loaded.

    settings: `key=value` of the models, where no run brings its own. asked: whether runs of language models are asked,
    as they are beside a language model, rather than their held-out answers used. Raises UserError.
    """
    runs = [run for source in named.values() if (run := run_of(parse_source(source).path))]
    config = run_config(runs[0]) if runs else None
    models = {name for name, source in named.items() if is_language_model(source)}
    if asked or models:
        models |= {name for name, source in named.items() if is_run_of_language(source)}
    like = None if models else model_for(list(named.values()), settings)
    if models and settings and config:
        raise UserError(f"set {settings[0]}: {runs[0]} is a run and says itself how it is asked; leave --set out")
    return [answer_source(name, source) if name in models else source_of(name, source, like)
            for name, source in named.items()], config


def model_for(sources: list[str], settings: tuple[str, ...]) -> ModelSettings | None:
    """The settings as which pipelines are loaded: of the first run among the sources, or those given as `key=value`.

    None where nothing is said. Raises UserError when both say something.
    """
    words = [parse_source(source) for source in sources]
    runs = (run for each in words if (run := run_of(each.path)))
    run = next((run for run in runs if not is_language_run(run)), None)
    if run and settings:
        raise UserError(f"set {settings[0]}: {run} is a run and brings its own model settings; leave --set out")
    return run_config(run).model if run else model_of(words[0].source, settings) if settings else None


def read_names(given: tuple[str, ...], verb: str) -> dict[str, str]:
    """{name: source} of arguments NAME=SOURCE. Raises UserError naming the argument that is wrong."""
    named: dict[str, str] = {}
    for each in given:
        name, equals, source = each.partition("=")
        if not equals or not name or not source:
            raise UserError(f"{verb} {each}: expected NAME=SOURCE, such as base=tiny-sd3")
        if name != name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
            raise UserError(f"{verb} {name[:LONGEST_NAME]!r}: a name is one line of at most {LONGEST_NAME} printable "
                            "characters without spaces around it, such as base")
        if name in named:
            raise UserError(f"{verb} {each}: {name} is named twice")
        named[name] = source
    return named


def run_of(path: Path) -> Path | None:
    """The run that a folder is, or is a checkpoint of."""
    for folder in (path, *list(path.parents)[1:2]):
        if (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir():
            return folder
    return None


def _finish(sources: list[SampleSource], asked: EvaluationRequest, out: Path,
            config: RunSettings | None, run: Path | None = None, over_seeds: bool = False) -> Results:
    from visalign.reports.comparison import write_comparison
    from visalign.rewards.registry import load_rewards

    if (out / "results.json").exists():
        raise UserError(f"out {out}: already holds results; choose another folder with --out")
    options = options_of(asked, config, sources[0].texts)
    check_gold(asked.gold, options)
    plan = plan_for(sources, asked, config)
    check_plan(asked.effect, len(sources), asked.seeds if plan else None)
    labels = labels_for(asked, len(sources), options)
    results = compare_models(sources, plan, out, options)
    if labels:
        results = replace(results, oracle=oracle_reading(results, labels,
                                                         lambda: load_rewards(options.rewards, options.device)))
    if over_seeds:
        over, lacking = changes_over_seeds(results)
        results = replace(results, over_seeds=over)
        results.notes.extend([*seeds_in_words(over), *lacking])
    if asked.effect is not None:
        results.notes.extend(evidence_in_words(results, asked.effect))
    if asked.gold is not None:
        results.notes.append(usefulness_in_words(results, asked.gold))
    if asked.proxy is None and results.verdicts and (asked.rewards is not None or config is None) and options.proxy:
        results.notes.append(f"{options.proxy}, the first reward, was taken for the optimised one (--proxy NAME)")
    results.figures[results.models[-1]].update(likelihoods_of(run) if run else {})
    write_comparison(results, out / "report.html")
    write_results(results, out)  # last, since they mark the command as done
    return results


def labels_for(asked: EvaluationRequest, sources: int, options: Options) -> OracleLabels | None:
    """The oracle's labels, where there are any. Raises UserError where they could say nothing of so many sources."""
    if asked.oracle is None:
        return None
    if not options.rewards:
        raise UserError(f"oracle {asked.oracle}: says what labels follow from scores; name a reward with --rewards")
    labels = read_oracle(asked.oracle, asked.oracle_label, *asked.oracle_range, asked.oracle_random)
    if labels.of_votes and sources < 2:
        raise UserError(f"oracle {asked.oracle}: holds comparisons, which say what share a model wins against its "
                        "base, and there is one model; name a run, or use `visalign compare`")
    return labels


def check_gold(gold: str | None, options: Options) -> None:
    """Raise UserError for a gold reward that is not measured, or is the one that was optimised."""
    from visalign.rewards.registry import load_rewards

    if gold is None:
        return
    names = [reward.name for reward in load_rewards(options.rewards)]
    if gold not in names:
        raise UserError(f"evaluate --gold {gold}: names no reward; the rewards are {', '.join(names)}"
                        f"{nearest(gold, names)}")
    if gold == options.proxy:
        raise UserError(f"evaluate --gold {gold}: was optimised, so its rise does not tell what is gained; name one "
                        "that was not")


def plan_for(sources: list[SampleSource], asked: EvaluationRequest,
            config: RunSettings | None) -> SamplingPlan | AnswerPlan | None:
    """How the models among the sources are sampled, None where all generations are there. Raises UserError."""
    sampled = next((source for source in sources if source.sampled), None)
    if sampled is None:
        return None
    odd = next((source for source in sources if source.texts != sampled.texts), None)
    if odd:
        kinds = [f"{each.name} makes {'texts' if each.texts else 'images or videos'}" for each in (sampled, odd)]
        raise UserError(f"{' and '.join(kinds)}, which cannot be compared")
    if not sampled.texts:
        plan = sampling_plan_of(asked, config, sampled.model)
        for source in sources:
            source.check_scale(plan.guidance_scale)
        return plan
    for name in ("steps", "guidance_scale"):
        if getattr(asked, name) is not None:
            raise UserError(f"{name}: is of image and video models, not of a language model; leave it out")
    return answer_plan(prompts_to_ask(asked, config), asked.seeds, asked.seed, asked.device, config, asked.settings)


def likelihoods_of(run: Path) -> dict[str, Estimate]:
    """The last held-out pair metrics of a preference-trained run; {} for other runs."""
    logged = [row["likelihoods"] for row in read_metrics(run)
              if row.get("kind") == "held_out" and row.get("likelihoods")]
    return {f"likelihood of held-out pairs/{name}": Estimate(*value) for name, value in logged[-1].items()
            if isinstance(value, list)} if logged else {}


def sampling_plan_of(asked: EvaluationRequest, config: RunSettings | None,
                     model: ModelSettings | None) -> SamplingPlan:
    """Prompts and sampling; what nobody says is as the run has it, or else the model (the first that is sampled).

    Raises UserError when no prompts are known.
    """
    settings, prompts = config.eval if config else None, prompts_to_ask(asked, config)
    sampling = sampling_for(config.model if config else model,
                            *(value if value is not None or settings is None else getattr(settings, name)
                              for name, value in (("steps", asked.steps), ("guidance_scale", asked.guidance_scale))))
    return SamplingPlan(prompts, asked.seeds, sampling.steps, sampling.guidance_scale, asked.seed, asked.device)


def prompts_to_ask(asked: EvaluationRequest, config: RunSettings | None) -> list[str]:
    """Those the user names, or the run's. Raises UserError when there are none."""
    settings = config.eval if config else None
    source = asked.prompts or (settings.prompts if settings else None)
    if source is None:
        raise UserError("prompts: give --prompts with a text file, one per line, or emoji:held_out")
    most = asked.max_prompts or (settings.max_prompts if settings and not asked.prompts else None)
    return list(dict.fromkeys(read_prompts(source, most)))


def options_of(asked: EvaluationRequest, config: RunSettings | None, texts: bool = False) -> Options:
    """Rewards, which of them was optimised, and features. Without a run, the first reward counts as that one.

    texts: whether the generations are texts, where no run says what measures them.
    """
    from visalign.rewards import load_reward

    settings = config.eval if config else None
    rewards = list(asked.rewards) if asked.rewards is not None else None
    proxy = asked.proxy
    if rewards is None:
        rewards = [spec for spec in (settings.reward, *settings.also) if spec] if settings else list(
            DEFAULT_TEXT_REWARDS if texts else DEFAULT_REWARDS)
        if proxy is None and (not settings or settings.reward):
            proxy = load_reward(rewards[0]).name if rewards else None
    elif proxy is None and rewards:
        proxy = load_reward(rewards[0]).name
    features = asked.features or (settings.features if settings else None) or (TEXT if texts else VISUAL).features
    return Options(rewards, proxy, features, asked.reference, asked.lpips, cache=asked.cache, device=asked.device)
