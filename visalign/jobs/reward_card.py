"""`visalign reward card`: everything that labelled pairs tell of a reward, on one page."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from visalign.data.annotations import Annotation, read_annotations
from visalign.errors import UserError
from visalign.evaluation.reward_card import AttackedKind, RewardCard
from visalign.evaluation.reward_eval import SCORED_FRAMES, report_dimension, reward_report_json, score_annotations
from visalign.evaluators.reward_accuracy import correctness
from visalign.evaluators.reward_distance import ConstantReward, RewardDistances, reward_distances
from visalign.evaluators.split_accuracy import SplitAccuracy, split_accuracy
from visalign.evaluators.statistics import TooFew
from visalign.jobs.reward_attack import AttackFound, attack_reward
from visalign.jobs.reward_distance import names_of
from visalign.media.text_measures import TEXT_STYLE
from visalign.reports.reward_card import write_reward_card
from visalign.rewards import Reward, load_reward
from visalign.rewards.bias import FEATURES, nuisance
from visalign.rewards.pairwise import PairReward
from visalign.rewards.registry import CARD, load_rewards, reward_folder
from visalign.storage.files import write_atomically
from visalign.storage.text_files import file_name

ATTACKED = 32
"""Pairs, unless said otherwise."""


def card_folder(spec) -> Path:
    """Where a card goes: beside the files of a reward that was trained here, else to a folder of its own. Raises
    UserError for no reward."""
    own = reward_folder(spec)
    return own / CARD if own else Path("reward-card")


def make_card(spec, data: str, out: Path, dimensions: tuple[str, ...], *, against: tuple[str, ...] = (),
              check: str | None = None, attacked: int = ATTACKED, media_root: str | None = None,
              device: str = "cpu") -> RewardCard:
    """Measure a reward on the annotations in `data` and write card.json and report.html into `out`.

    against: rewards whose distances from it are told. check: of attacks. attacked: pairs; 0: none. Raises UserError
    where no annotation can be scored.
    """
    reward, others = load_reward(spec, device), load_rewards(list(against), device)
    items = read_annotations(data, dimensions, media_root)
    scored = score_annotations(reward, items)
    labelled = sorted({name for item in items for name in item.outcome})
    reports = {name: found for name in labelled if (found := report_dimension(reward, name, items, scored))}
    if not reports:
        raise UserError(f"reward {reward.name}: could not score any of {len(items)} annotations")
    missing: list[str] = []
    attacks = {name: found for name in reports if (found := attacked_pairs(
        reward, items, name, data, out, check, attacked, device, missing))}
    distances = distances_from(reward, others, items, scored, missing)
    splits = splits_of(reward, items, reports, scored)
    card = RewardCard(
        reward.name, data, len(items), len({item.prompt for item in items}), reports, splits,
        {name: {kind: AttackedKind(each.images, each.success) for kind, each in found.kinds.items()}
         for name, found in attacks.items()},
        distances, tuple(missing))
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "card.json", (json.dumps(card_json(reward, card), indent=2) + "\n").encode())
    write_reward_card(out / "report.html", card, list(attacks.values()), dict(zip(
        reports, (mistake_of(reward, name, items, scored, reports[name].scored_by) for name in reports), strict=True)))
    return card


def attacked_pairs(reward: Reward, items: list[Annotation], dimension: str, data: str, out: Path, check: str | None,
                   most: int, device: str, missing: list[str]) -> AttackFound | None:
    """The attack on the first pairs of a dimension, in pixels; None where there is none, the reason in `missing`."""
    folder = out / "attack" / file_name(dimension)
    try:
        if not most:
            raise UserError("they were not asked for")
        return attack_reward(reward, items, dimension, data, folder, check=check, most=most, device=device)
    except UserError as error:  # a card without an attack is one all the same, and says why
        missing.append(f"attacks on {dimension}: {error}")
        return None


def distances_from(reward: Reward, others: list[Reward], items: list[Annotation], scored,
                   missing: list[str]) -> RewardDistances | None:
    """Of the samples that the annotations are of; None with the reason in `missing`."""
    if not others or isinstance(reward, PairReward):
        missing.append("distances from other rewards: " + ("none was named" if not others else
                                                           "it compares, and gives a sample alone nothing"))
        return None
    prompts = [side.prompt for item in items for side in (item.a, item.b)]

    def together(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.stack([a, b], 1).reshape(-1)

    scores = {name: together(scored.a[:, j], scored.b[:, j]) for j, name in enumerate(names_of(reward))}
    for other in others:
        found = score_annotations(other, items, edits=False)
        scores |= {name: together(found.a[:, j], found.b[:, j]) for j, name in enumerate(names_of(other))}
    scores = {name: each for name, each in scores.items() if np.isfinite(each).any()}
    try:
        return reward_distances(scores, prompts)
    except (ConstantReward, TooFew) as error:
        missing.append(f"distances from other rewards: {error}")
        return None


def splits_of(reward: Reward, items: list[Annotation], reports: dict, scored) -> dict[str, dict[str, SplitAccuracy]]:
    """By dimension and feature, where each half has enough pairs."""
    sides = [[getattr(item, side).sample(item.where, SCORED_FRAMES) for item in items] for side in "ab"]
    names = TEXT_STYLE if sides[0][0].answer is not None else FEATURES[:-1]  # both sides have one prompt's length
    measured = [np.array([nuisance(sample)[:len(names)] for sample in tqdm(
        each, desc=f"features of side {side}", unit="sample")]) for side, each in zip("ab", sides, strict=True)]
    prompts, found = np.array([item.prompt for item in items]), {}
    for name, report in reports.items():
        column = reward.dimensions.index(report.scored_by)
        margins = scored.a[:, column] - scored.b[:, column]
        outcomes = np.array([item.outcome.get(name, 0.5) for item in items])
        used = (outcomes != 0.5) & np.isfinite(margins)
        way = np.where(outcomes[used] > 0.5, 1, -1)
        correct = correctness(margins[used], outcomes[used])
        each = {feature: split_accuracy(correct, way * (measured[0] - measured[1])[used, j], prompts[used])
                for j, feature in enumerate(names)}
        found[name] = {feature: split for feature, split in each.items() if split is not None}
    return found


def mistake_of(reward: Reward, dimension: str, items: list[Annotation], scored, scored_by: str) -> dict | None:
    """The decided pair with the largest margin the wrong way round; None where all are right."""
    column = reward.dimensions.index(scored_by)
    way = np.array([{1.0: 1, 0.0: -1}.get(item.outcome.get(dimension), 0) for item in items])
    toward = np.nan_to_num(way * (scored.a[:, column] - scored.b[:, column]))
    place = int(toward.argmin())
    if toward[place] >= 0:
        return None
    item = items[place]
    sides = [each.sample(item.where, SCORED_FRAMES) for each in (item.a, item.b)][::way[place]]
    return {"prompt": item.prompt, "kind": item.kind, "better": sides[0], "worse": sides[1], "margin": toward[place]}


def card_json(reward: Reward, card: RewardCard) -> dict[str, Any]:
    """Everything on the card; ends of intervals that are not known are null."""
    def plain(value):
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    distances = {} if card.distances is None else {
        f"{a} - {b}": value._asdict() for (a, b), value in card.distances.between.items()}
    return plain({"data": card.data, "pairs": card.pairs, "prompts": card.prompts, "sentence": card.sentence,
                  "use": card.use, "avoid": card.avoid, "not_measured": card.unknown, "distances": distances,
                  "splits": {name: {feature: asdict(split) for feature, split in each.items()}
                             for name, each in card.splits.items()},
                  "attacks": {name: {kind: asdict(each) for kind, each in found.items()}
                              for name, found in card.attacks.items()}}
                 | reward_report_json(reward, card.reports))
