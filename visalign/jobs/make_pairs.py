"""`visalign data pairs`: prompts -> generations -> scores -> a preference set that `train` reads.

    OUT/samples/         generations (unless they existed before)
    OUT/scores.parquet   the reward of each
    OUT/pairs.parquet    prompt, chosen, rejected (paths; of texts the texts themselves), strength, rewards, and of
                         samples that grew as trees branch
    OUT/sheet.png        chosen left, rejected right; of texts pairs.html
"""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from visalign.config.sources import PromptsFrom
from visalign.data.decision_tree import MARGIN, decided_pairs, levels_note, margins_of
from visalign.data.entry import Entry
from visalign.data.generations import find_generations
from visalign.data.pair_selection import (
    Candidate,
    Chosen,
    PairCounts,
    all_pairs,
    best_worst,
    keep,
    rank_consistency,
    rejection_sampled,
    sifted,
)
from visalign.data.pareto import (
    Rewarded,
    calibration_notes,
    check_distinct,
    pareto_pairs,
    standardised_rewards,
    together,
)
from visalign.data.text_generations import TextEntry
from visalign.errors import UserError, nearest
from visalign.jobs.score import LEAST_FOR_SHARE, belongs, identity_of, read_table, score_generations
from visalign.media.source_images import sheet_row
from visalign.media.video_files import save_sheet
from visalign.rewards import Reward, load_reward
from visalign.rewards.pairwise import Failure, PairReward
from visalign.sampling.seeds import stable_seed
from visalign.storage.files import write_atomically

SHEET_ROWS = 16
Strategy = Literal["best_worst", "top_k", "margin", "sifted", "rso", "pareto", "tree"]
SEVERAL = ("pareto", "tree")
"""Strategies of several rewards."""
RSO_BETA = 0.5


@dataclass(frozen=True)
class PairSettings:
    """How pairs are chosen.

    strategy: `best_worst` (one per prompt), `top_k` (the k best against the k worst), `margin` (every pair with a gap
    above min_gap), `sifted` (pair ranking, then point sifting), `rso` (rejection sampling, with rso_beta in units of
    the score, then `top` random pairs of what is kept), `pareto` (CaPO, by one reward or several: `top` random ones of
    the best trade-offs against as many of the worst, with win rates as scores), `tree` (HERON, by several rewards:
    `top` random pairs, each ordered by the first reward by which they differ by more than tree_margin of its standard
    deviations). standardise: for `pareto`, each reward in its own standard deviations. dimension: of the reward (None:
    its first).
    ranker: a comparing reward for `sifted` (None: by the scores). min_gap: smaller gaps are ties.
    min_confidence: least probability that the order is right, by the reward's own spread.
    second_reward: another one; how far it ranks a prompt's generations alike is the chance of its pairs (CREAM).
    """

    strategy: Strategy = "best_worst"
    dimension: str | None = None
    ranker: str | None = None
    top: int = 1
    min_gap: float = 0.0
    min_confidence: float = 0.0
    seed: int = 0
    rso_beta: float | None = None
    second_reward: str | None = None
    standardise: bool = False
    tree_margin: float | None = None

    def __post_init__(self):
        if self.tree_margin is not None and self.strategy != "tree":
            raise UserError("pairs: --tree-margin is for the strategy tree")
        if self.rso_beta is not None and self.strategy != "rso":
            raise UserError("pairs: --rso-beta is for the strategy rso")
        if self.strategy == "margin" and self.min_gap <= 0:
            raise UserError("pairs: strategy margin needs --min-gap greater than 0")
        if self.ranker and self.strategy != "sifted":
            raise UserError("pairs: --ranker is for the strategy sifted")
        if self.standardise and self.strategy != "pareto":
            raise UserError("pairs: --standardise is for the strategy pareto")
        unused = next((name for name in ("min_confidence", "second_reward") if getattr(self, name)), None)
        if self.strategy in SEVERAL and unused:
            raise UserError(f"pairs: --{unused.replace('_', '-')} compares scores of one reward, and strategy "
                            f"{self.strategy} takes several; leave it out")
        if not 0 <= self.min_confidence < 1:
            raise UserError(f"pairs: --min-confidence must be at least 0 and below 1, got {self.min_confidence}")


def make_pairs(source: str, rewards: Sequence[str], out: Path, settings: PairSettings, device: str = "cpu",
               max_failures: float = 0.05, prompts_from: PromptsFrom = "auto",
               media_root: str | None = None, branches: tuple[int, ...] = ()) -> tuple[PairCounts, tuple[str, ...]]:
    """Score the generations of `source` and write pairs into the folder `out`; the notes say what was left out.

    Generations that grew as trees are paired within their tree, and the column `branch` of a pair says before which
    sampling step its sides parted. rewards: one, or several for the strategies of SEVERAL. branches: where they must
    have parted, if they are asked to. Raises UserError when no pair is left, with the counts that
    say why.
    """
    check_number(rewards, settings)
    models = [load_reward(reward, device) for reward in rewards]
    check_distinct(models)
    reward_model = models[0]
    dimension = dimension_of(reward_model, settings)
    ranker = load_reward(settings.ranker, device) if settings.ranker else None
    second = second_reward_of(settings, reward_model, device)
    if ranker is not None and not isinstance(ranker, PairReward):
        raise UserError(f"pairs: --ranker {settings.ranker} does not compare; use one that does, such as vlm_pairs")
    if (out / "pairs.parquet").exists():
        raise UserError(f"out {out}: already holds pairs; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    scores = out / "scores.parquet"
    entries = find_generations(source, prompts_from, media_root)
    check_leaves(entries, branches, source)
    scored = [*rewards, settings.second_reward] if second else list(rewards)
    if scores.exists():
        check_scores(scores, identity_of(source, scored, entries), entries)
        notes = entries.notes
    else:
        notes = score_generations(source, scored, scores, device=device, max_failures=max_failures,
                                  prompts_from=prompts_from, media_root=media_root).notes
    if entries.prompt_hint and entries.prompt_hint not in notes:
        notes += (entries.prompt_hint,)
    groups = candidates_in(scores, reward_model, dimension, entries)
    counts, chosen = PairCounts(), []
    others = candidates_in(scores, second, second.dimensions[0], entries) if second else {}
    chances = consistency_by_prompt(groups, others) if second else {}
    rank = Ranking(entries, ranker, counts, max_failures)
    names, decided = [model.name for model in models], Counter()
    rewarded = rewards_together(scores, models, dimension, settings, entries) if settings.strategy in SEVERAL else {}
    margins: tuple[float, ...] = ()
    if settings.strategy == "pareto":
        notes += calibration_notes(rewarded, names, "--standardise")
    if settings.strategy == "tree":
        margins = margins_of(rewarded, names, MARGIN if settings.tree_margin is None else settings.tree_margin)
    for prompt, candidates in groups.items():
        if math.isnan(chances.get(prompt, 1.0)):
            counts.prompts_without += 1
            continue
        own = replace(settings, seed=stable_seed(settings.seed, prompt)) if entries[candidates[0].number].leaf else \
            settings  # leaves are no equals: the same places in every tree would part at the same steps
        proposed = propose(candidates, own, rank, rewarded.get(prompt, {}), margins, decided)
        chosen += [(prompt, *pair) for pair in keep(proposed, counts, settings.min_gap, settings.min_confidence)]
    rank.check(1)
    if not chosen:
        raise UserError(". ".join([f"pairs: no pair to train on in {source}: {counts.text()}", *notes]))
    notes += (levels_note(decided, names),) if margins else ()
    notes += branches_note([parted_before(entries[a.number], entries[b.number]) for _, a, b in chosen])
    write_pairs(chosen, entries, out, {prompt: max(chance, 0.5) for prompt, chance in chances.items()})
    against = sum(chance < 0.5 for chance in chances.values())
    if against:
        notes += (f"{second.name} ranks {against} of {len(groups)} prompts more against {reward_model.name} than with "
                  "it: their pairs have chance 0.5",)
    summary = {"source": source, "reward": ",".join(rewards), **asdict(settings), **asdict(counts)}
    write_atomically(out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    return counts, notes


def check_number(rewards: Sequence[str], settings: PairSettings) -> None:
    """Raise UserError for several rewards where one is wanted."""
    if len(rewards) > 1 and settings.strategy not in SEVERAL:
        raise UserError(f"pairs: --reward names {len(rewards)}, and strategy {settings.strategy} takes one; strategy "
                        "pareto takes several, and so does tree")
    if len(rewards) < 2 and settings.strategy == "tree":
        raise UserError("pairs: strategy tree needs several rewards in the order of their importance, and --reward "
                        f"names {rewards[0]} alone")
    if len(rewards) > 1 and settings.dimension:
        raise UserError("pairs: --dimension is of one reward, and --reward names several, of each of which the first "
                        "is taken; leave it out")


def rewards_together(scores: Path, models: Sequence[Reward], dimension: str, settings: PairSettings,
               entries: list[Entry]) -> Rewarded:
    """The rewards of each prompt's generations as strategies of several compare them; dimension: of a reward alone."""
    groups = [{prompt: {c.number: c.score for c in candidates} for prompt, candidates in candidates_in(
        scores, model, model.dimensions[0] if len(models) > 1 else dimension, entries).items()} for model in models]
    found = together(groups)
    return standardised_rewards(found, [model.name for model in models]) if settings.standardise else found


def second_reward_of(settings: PairSettings, reward: Reward, device: str) -> Reward | None:
    """Raises UserError for a second reward that is the first one."""
    second = load_reward(settings.second_reward, device) if settings.second_reward else None
    if second is not None and second.name == reward.name:
        raise UserError(f"pairs: --second-reward {second.name} is the reward itself; name another one")
    return second


def consistency_by_prompt(groups: dict[str, list[Candidate]], others: dict[str, list[Candidate]]) -> dict[str, float]:
    """How far two rewards rank each prompt's generations alike, 0 to 1; NaN where fewer than two have both scores."""
    chances = {}
    for prompt, candidates in groups.items():
        second = {c.number: c.score for c in others.get(prompt, ())}
        both = [(c.score, second[c.number]) for c in candidates if c.number in second]
        chances[prompt] = rank_consistency([a for a, _ in both], [b for _, b in both])
    return chances


def dimension_of(reward: Reward, settings: PairSettings) -> str:
    """Raises UserError for a dimension that the reward has not."""
    dimension = settings.dimension or reward.dimensions[0]
    if dimension not in reward.dimensions:
        raise UserError(f"pairs: {reward.name} has no dimension '{dimension}'{nearest(dimension, reward.dimensions)}")
    return dimension


def check_scores(scores: Path, identity: dict, entries: list[Entry]) -> None:
    """Raise UserError when the table is of another reward, or of files that have changed since."""
    try:
        fits = belongs(read_table(scores), identity, [entry.stamp() for entry in entries])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{scores}: not a readable table of scores ({' '.join(str(error).split())[:120]}); delete it"
                        ) from None
    if not fits:
        raise UserError(f"{scores}: belongs to another reward or other generations, or the files have changed since; "
                        "delete it to score them again, or choose another OUT")


def candidates_in(scores: Path, reward: Reward, dimension: str, entries: list[Entry]) -> dict[str, list[Candidate]]:
    """Scored generations by prompt, and by tree where they grew as trees; larger scores are the better ones."""
    table, column, sign = read_table(scores), f"{reward.name}.{dimension}", 1 if reward.higher_is_better else -1
    spread = f"{column}.spread"
    spreads = table.column(spread).to_pylist() if spread in table.column_names else [0.0] * len(table)
    groups: dict[str, list[Candidate]] = {}
    for i, (score, deviation) in enumerate(zip(table.column(column).to_pylist(), spreads, strict=True)):
        if score is not None and entries[i].prompt:
            groups.setdefault(entries[i].paired_within, []).append(Candidate(i, sign * score, deviation or 0.0))
    return groups


@dataclass
class Ranking:
    """Whether the first of each pair is better, by the ranker or else by the scores; counts ties and failures."""

    entries: list[Entry]
    ranker: PairReward | None
    counts: PairCounts
    max_failures: float
    asked: int = 0
    reason: str = ""

    def __call__(self, pairs: list[Chosen]) -> list[bool | None]:
        if self.ranker is None:
            chances = [0.5 + (a.score > b.score) / 2 - (a.score < b.score) / 2 for a, b in pairs]
        else:
            chances = self.ranker.compare([(self.entries[a.number].sample(), self.entries[b.number].sample())
                                           for a, b in pairs])
        for chance in chances:
            if isinstance(chance, Failure):
                self.counts.unranked += 1
                self.reason = self.reason or chance.reason
        self.asked += len(pairs)
        self.counts.ties += chances.count(0.5)
        self.check(LEAST_FOR_SHARE)
        return [None if isinstance(chance, Failure) or chance == 0.5 else chance > 0.5 for chance in chances]

    def check(self, least: int) -> None:
        """Raise UserError when the ranker failed on more than the allowed share."""
        if self.asked >= least and self.counts.unranked > self.max_failures * self.asked:
            raise UserError(f"pairs: the ranker {self.ranker.name} could not compare {self.counts.unranked} of "
                            f"{self.asked} pairs, more than the share of {self.max_failures:g}; first reason: "
                            f"{self.reason}")


def propose(candidates: list[Candidate], settings: PairSettings, rank: Ranking,
            rewarded: Mapping[int, tuple[float, ...]] | None = None, margins: Sequence[float] = (),
            decided: Counter | None = None) -> list[Chosen]:
    """The strategy's pairs of one prompt, before ties and doubtful ones are left out; rewarded: the candidates'
    rewards, for strategies of several. margins, decided: of the strategy tree (`decided_pairs`)."""
    strategies = {"best_worst": lambda: best_worst(candidates), "top_k": lambda: best_worst(candidates, settings.top),
                  "margin": lambda: all_pairs(candidates),
                  "sifted": lambda: sifted(candidates, rank, settings.seed),
                  "rso": lambda: rejection_sampled(candidates, settings.rso_beta or RSO_BETA, settings.top,
                                                   settings.seed),
                  "pareto": lambda: pareto_pairs(rewarded or {}, settings.top, settings.seed),
                  "tree": lambda: decided_pairs(rewarded or {}, margins, settings.top, settings.seed, decided)}
    return strategies[settings.strategy]()


def check_leaves(entries: Sequence[Entry], branches: tuple[int, ...], source: str) -> None:
    """Raise UserError where generations were to part before these steps, and are there with others."""
    other = next((each for each in entries if branches and (each.leaf is None or each.leaf.branches != branches)), None)
    if other is not None:
        known = ",".join(map(str, other.leaf.branches)) if other.leaf else "no step"
        raise UserError(f"pairs: {source} holds generations that part before {known}, and --branches names "
                        f"{','.join(map(str, branches))}; choose another OUT")


def parted_before(a: Entry, b: Entry) -> int | None:
    """The sampling step before which two generations of a tree parted; None for others."""
    return a.leaf.parted_from(b.leaf) if a.leaf and b.leaf else None


def branches_note(parted: Sequence[int | None]) -> tuple[str, ...]:
    """A sentence on how many pairs parted where; nothing for generations that did not grow as trees."""
    counts = sorted(Counter(step for step in parted if step is not None).items())
    told = ", ".join(f"{count} of step {step}" for step, count in counts)
    return (f"pairs by the sampling step before which their sides parted (column branch): {told}",) if counts else ()


def named_from(file: Path, folder: Path) -> str:
    """The path by which a table in a folder names a file."""
    return os.path.relpath(file.resolve(), folder.resolve())


def stored_in(entry: Entry, folder: Path) -> str:
    """What a table in a folder holds of a generation: a text, or the path of a file."""
    return entry.content if isinstance(entry, TextEntry) else named_from(entry.file, folder)


def edit_of(entry: Entry, folder: Path) -> dict:
    """What a row in a folder says of an edit: its source images, and notes; nothing of what is none."""
    notes = {name: named_from(Path(value), folder) if name == "mask" else value for name, value in entry.notes.items()}
    return {"sources": [named_from(file, folder) for file in entry.sources], **notes} if entry.sources else {}


def pair_row(prompt: str, files: tuple[str, str], pair: Chosen, edit: dict) -> dict:
    """A row of pairs. files: of the chosen and the rejected one, or the texts themselves."""
    better, worse = pair
    return {"prompt": prompt, "chosen": files[0], "rejected": files[1], "strength": better.score - worse.score,
            "chosen_reward": better.score, "rejected_reward": worse.score, **edit}


def write_pairs(chosen: list[tuple[str, Candidate, Candidate]], entries: list[Entry], out: Path,
                chances: dict[str, float]) -> None:
    """pairs.parquet with paths relative to `out`, or with the texts, and the contact sheet or page. chances: by prompt,
    of the labels; {} where nothing says."""
    rows = []
    for prompt, a, b in chosen:
        one, other = entries[a.number], entries[b.number]
        parted = parted_before(one, other)
        more = ({"chance": chances[prompt]} if chances else {}) | ({} if parted is None else {"branch": parted})
        rows.append(pair_row(one.prompt, (stored_in(one, out), stored_in(other, out)), (a, b),
                             edit_of(one, out) | more))
    noted = sorted({name for row in rows for name in row} - rows[0].keys())
    rows[0] |= dict.fromkeys(noted)  # the first row's names become the columns
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    write_atomically(out / "pairs.parquet", sink.getvalue().to_pybytes())
    if any(isinstance(entries[c.number], TextEntry) for pair in chosen for c in pair[1:]):
        from visalign.reports.pairs import write_pair_page

        write_pair_page(rows, out / "pairs.html")
        return
    drawn = [(a, b, sheet_row([entries[c.number].sample(16) for c in (a, b)])) for _, a, b in chosen[:SHEET_ROWS]]
    save_sheet([(f"{label} ({a.score:.2f} / {b.score:.2f})", media) for a, b, (label, media) in drawn],
               out / "sheet.png", cell=128, label_width=240)
