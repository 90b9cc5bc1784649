"""`visalign lm rounds`: answers, rewards, pairs, training, measuring, and again from the model that came of it.

    OUT/round-1/ ...   runs as `lm train` makes them      OUT/rounds.json   what each round came to
    OUT/warm-up/       the run before, if there is one    OUT/rounds.html   the same as a page

Self-play schemes are a reward, a choice of pairs and a reference: self-rewarding (reward `points` of {current}), Selfie
and DNO (`density_ratio` of {current} over {base}; `min_gap`), CREAM (`second_reward` of {previous}), SPPO (objective
`sppo`), UPO (`uncertainty`), MCTS-DPO (`tree`), iRFT (`tree`, `success` and `warm_up`). A round that is interrupted
continues with --resume; rounds that are complete are not repeated.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visalign.config import LanguageConfig, TextFeedbackSettings
from visalign.errors import UserError
from visalign.evaluators import Estimate, VerdictLimits, verdict_of
from visalign.evaluators.looks import OneOfMany, error_of_look
from visalign.evaluators.prompt_metrics import PromptMetrics, known_mean, paired, prompt_metrics_of
from visalign.evaluators.verdict import repeated_look
from visalign.language.feedback import read_feedback
from visalign.language.held_out import label_agreements
from visalign.language.run import train_language
from visalign.language.success import NothingDeficient, SuccessShares, read_success
from visalign.language.uncertainty import uncertainty_of_round
from visalign.reports import render_page
from visalign.storage.files import write_atomically
from visalign.storage.run_folder import holds_run, read_metrics
from visalign.trainers.summary import VERDICT

SUMMARY, PAGE, WARM_UP = "rounds.json", "rounds.html", "warm-up"


@dataclass(frozen=True)
class Round:
    """What a round came to, on the held-out prompts: mean reward, its change from the start and from the round before
    (intervals over prompts), KL to this round's reference per answer, relative change of diversity since the start,
    verdict against the start, pairs it learnt from, the share of them that the measured reward orders alike (of steps
    with what comes before them), and how often the model succeeded at the prompts before the round, where that is
    asked for."""

    number: int
    folder: str
    reward: float
    from_start: Estimate
    from_before: Estimate
    kl: float | None
    diversity: Estimate | None
    verdict: str
    reasons: tuple[str, ...]
    pairs: int
    agreement: float | None
    success: SuccessShares | None = None


@dataclass(frozen=True)
class Rounds:
    """All rounds, and why there are no more."""

    rounds: tuple[Round, ...]
    ended: str

    def table(self) -> list[dict[str, str]]:
        """Rows of texts; a column that no round has anything for is left out."""
        rows = [{"round": str(each.number), "reward": f"{each.reward:+.3f}",
                 "from the start": interval(each.from_start), "from the round before": interval(each.from_before),
                 "KL": "" if each.kl is None else f"{each.kl:.2f}",
                 "diversity": "" if each.diversity is None else interval(each.diversity), "pairs": str(each.pairs),
                 "labels agree": "" if each.agreement is None else f"{each.agreement:.2f}",
                 "prompts by success": each.success.text() if each.success else "",
                 "verdict": each.verdict} for each in self.rounds]
        return [{name: row[name] for name in row if any(each[name] for each in rows)} for row in rows]


def interval(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def train_rounds(config: LanguageConfig, resume: bool = False,
                 told: Callable[[Round], None] = lambda found: None) -> Rounds:
    """Run the rounds of a recipe; `told` of each as it ends. Raises UserError for a recipe that makes no pairs, or a
    folder that holds rounds already."""
    root = Path(config.output.folder).expanduser()
    check_rounds(config, root, resume)
    done: list[Round] = []
    models, ended = [config.model.source, *warmed_up(config, root, resume)], ""
    while not ended:
        number = len(done) + 1
        folder = root / f"round-{number}"
        try:
            if not (folder / VERDICT).is_file():
                train_language(round_config(config, number, models, folder), resume and holds_run(folder))
        except NothingDeficient as error:
            if not done:
                raise
            ended = f"round {number} had nothing to learn: {error}"
        else:
            models.append(str(folder / "export"))
            done.append(summed_up(number, root, config))
            told(done[-1])
            ended = reason_to_stop(done, config)
        so_far = f"{number} of {config.rounds.count} rounds were made so far"
        keep_rounds(root, Rounds(tuple(done), ended or so_far), config)
    return Rounds(tuple(done), ended)


def check_rounds(config: LanguageConfig, root: Path, resume: bool) -> None:
    """Raise UserError for a recipe that makes no pairs, or a folder that holds rounds of another kind."""
    if not isinstance(config, LanguageConfig) or not config.data.feedback:
        raise UserError("lm rounds: needs data.feedback, since every round makes pairs of the model's answers")
    if not config.eval.reward:
        raise UserError("lm rounds: needs eval.reward, by which rounds are compared")
    begun = [(root / name).exists() for name in ("round-1", WARM_UP)]
    if not resume and any(begun):
        raise UserError(f"output.folder {root}: already holds rounds; continue them with --resume, or begin others "
                        f"with output.folder={root}-2")
    if begun[0] and begun[1] != bool(config.rounds.warm_up):
        raise UserError(f"rounds.warm_up: output.folder {root} holds rounds {'with' if begun[1] else 'without'} a "
                        f"warm-up, and this recipe is for the other; begin others with output.folder={root}-2")


def warmed_up(config: LanguageConfig, root: Path, resume: bool) -> list[str]:
    """The model that came of imitating the base's own successes, [] where the recipe has no warm-up."""
    if not config.rounds.warm_up:
        return []
    folder = root / WARM_UP
    if not (folder / VERDICT).is_file():
        train_language(warm_up_config(config, folder), resume and holds_run(folder))
    return [str(folder / "export")]


def round_config(config: LanguageConfig, number: int, models: list[str], folder: Path) -> LanguageConfig:
    """The recipe of one round. models: the base and what came of the warm-up and the rounds before, in order."""
    current, previous = models[-1], models[max(0, len(models) - 2)]
    named = {"{current}": current, "{previous}": previous, "{base}": models[0]}
    reference = models[0] if config.rounds.reference == "base" and len(models) > 1 else None
    unsure, feedback = config.data.feedback.uncertainty, feedback_of(config, named)
    feedback = feedback.model_copy(update={"uncertainty": uncertainty_of_round(
        unsure, number, with_models(unsure and unsure.reference, named), current)})
    return config.model_copy(update={
        "model": config.model.model_copy(update={"source": current, "reference": reference}),
        "data": config.data.model_copy(update={"feedback": feedback}),
        "train": config.train.model_copy(update={"seed": config.train.seed + number - 1}),
        "eval": config.eval.model_copy(update={"also": tuple(with_models(each, named) for each in config.eval.also)}),
        "output": config.output.model_copy(update={"folder": str(folder)})})


def feedback_of(config: LanguageConfig, named: dict[str, str]) -> TextFeedbackSettings:
    """data.feedback, in whose rewards the names of models are theirs."""
    feedback, tree = config.data.feedback, config.data.feedback.tree
    return feedback.model_copy(update={
        "reward": with_models(feedback.reward, named), "second_reward": with_models(feedback.second_reward, named),
        "tree": tree and tree.model_copy(update={"self_reward": with_models(tree.self_reward, named)})})


def warm_up_config(config: LanguageConfig, folder: Path) -> LanguageConfig:
    """The recipe of the run before round 1, which imitates the base's own successes."""
    warm_up = config.rounds.warm_up
    named = dict.fromkeys(("{current}", "{previous}", "{base}"), config.model.source)
    feedback = feedback_of(config, named)
    ranked = {name: TextFeedbackSettings.model_fields[name].default
              for name in ("second_reward", "tree", "uncertainty", "samples_per_prompt", "pairs_per_prompt",
                           "min_gap")}
    feedback = feedback.model_copy(update=ranked | {
        "success": feedback.success.model_copy(update={"learn": "solved"})})
    return config.model_copy(update={
        "data": config.data.model_copy(update={"feedback": feedback, "goals": None, "drop_ches": 0.0}),
        "objective": {"name": "sft"}, "optim": warm_up.optim or config.optim,
        "train": config.train.model_copy(update={"steps": warm_up.steps}),
        "model": config.model.model_copy(update={"teachers": {}, "reference": None}),
        "rounds": config.rounds.model_copy(update={"warm_up": None}),
        "eval": config.eval.model_copy(update={"also": tuple(with_models(each, named) for each in config.eval.also)}),
        "output": config.output.model_copy(update={"folder": str(folder)})})


def with_models(spec: Any, named: dict[str, str]) -> Any:
    """A reward's specification in which the names of models are theirs."""
    if isinstance(spec, dict):
        return {key: with_models(value, named) for key, value in spec.items()}
    if isinstance(spec, list | tuple):
        return type(spec)(with_models(value, named) for value in spec)
    if isinstance(spec, str):
        for name, model in named.items():
            spec = spec.replace(name, model)
    return spec


def measured_in(folder: Path) -> tuple[PromptMetrics, PromptMetrics, dict]:
    """Held-out answers of a run before and after it, and the last row's other numbers."""
    rows = [row for row in read_metrics(folder) if row["kind"] == "held_out"]
    return prompt_metrics_of(rows[0]), prompt_metrics_of(rows[-1]), rows[-1]


def summed_up(number: int, root: Path, config: LanguageConfig) -> Round:
    """A round that is complete, compared with the start and with the round before."""
    folder = root / f"round-{number}"
    before, after, row = measured_in(folder)
    start = measured_in(root / (WARM_UP if config.rounds.warm_up else "round-1"))[0]
    name = json.loads((folder / VERDICT).read_text())["proxy"]
    guard = config.guard
    verdict = verdict_of(start, after, name, VerdictLimits(guard.budget, guard.drift, guard.tolerance),
                         intervals=repeated_look(config.rounds.count, number))

    intervals = OneOfMany(error_of_look(number, config.rounds.count))

    def change(base: PromptMetrics) -> Estimate:
        """One of two with what this round may err, so that those of all rounds hold together."""
        first, last = paired(base, after, f"reward/{name}")
        return intervals.mean(last - first, 1 / 2)

    pairs = read_feedback(folder)
    return Round(number, folder.name, known_mean(after.values[f"reward/{name}"]), change(start), change(before),
                 row.get("held_out/kl_per_answer"), verdict.diversity, verdict.word, verdict.reasons, len(pairs),
                 agreement_of(pairs, config), read_success(folder))


def agreement_of(pairs, config: LanguageConfig) -> float | None:
    """Share of a round's pairs that eval.reward orders as they are labelled, ties one half; None where it did that, or
    scores none of them, or there are no labels."""
    if config.data.feedback.reward == config.eval.reward or config.data.feedback.imitates:
        return None
    agreed = label_agreements(pairs, config.eval.reward).nanmean().item()
    return None if math.isnan(agreed) else agreed


def reason_to_stop(done: list[Round], config: LanguageConfig) -> str:
    """Why there is no further round, '' where there is one."""
    last = done[-1]
    if last.verdict in ("collapsed", "hacked"):
        return f"round {last.number} is {last.verdict}: {'; '.join(last.reasons)}"
    if last.number == config.rounds.count:
        return "all planned rounds were made"
    if config.rounds.stop and last.from_before.low <= 0:
        return (f"round {last.number} did not clearly raise the reward over the round before: "
                f"{interval(last.from_before)}")
    return ""


def keep_rounds(root: Path, found: Rounds, config: LanguageConfig) -> None:
    """rounds.json and rounds.html."""
    content = {"ended": found.ended, "rounds": [asdict(each) for each in found.rounds]}
    write_atomically(root / SUMMARY, (json.dumps(content, indent=2) + "\n").encode())
    rows = found.table()
    title = f"{config.model.source}, {len(rows)} rounds of {config.objective['name']}"
    page = render_page("rounds.html.j2", title=title, columns=list(rows[0]), rows=rows, ended=found.ended,
                       folders=[each.folder for each in found.rounds])
    write_atomically(root / PAGE, page)
