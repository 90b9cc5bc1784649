"""Generations of several models side by side: the same prompts and, where they are known, the same seeds."""

from dataclasses import dataclass

from visalign.data.entry import Entry
from visalign.errors import UserError

_NONE = ""


@dataclass(frozen=True)
class Matched:
    """Entries of every model, [P][K]; notes: what was left out, a sentence each."""

    prompts: list[str]
    seeds: int
    entries: dict[str, list[list[Entry]]]
    notes: tuple[str, ...]


def match(found: dict[str, list[Entry]], least_seeds: int = 1) -> Matched:
    """Keep what all models have: common prompts, common seeds of each, and the same number of seeds for every prompt.

    Where a prompt's seeds are not known, its generations are matched in order. Raises UserError when no prompt is
    common to all, or a prompt is missing from generations.
    """
    notes: list[str] = []
    by_prompt = {name: _by_prompt(name, entries) for name, entries in found.items()}
    first = next(iter(by_prompt.values()))
    prompts = [prompt for prompt in first if all(prompt in each for each in by_prompt.values())]
    if not prompts:
        examples = "; ".join(f"{name} has '{next(iter(each))}'" for name, each in by_prompt.items())
        raise UserError(f"the models share no prompt ({examples}); generate them from the same prompts")
    every = {prompt for each in by_prompt.values() for prompt in each}
    if len(prompts) < len(every):
        notes.append(f"{len(every) - len(prompts)} of {len(every)} prompts were left out, since not all models have "
                     "them")
    kept: dict[str, list[list[Entry]]] = {name: [] for name in found}
    lost = ordered = 0
    for prompt in prompts:
        columns, lost_here, in_order = _common_seeds({name: each[prompt] for name, each in by_prompt.items()})
        lost, ordered = lost + lost_here, ordered + in_order
        for name, column in columns.items():
            kept[name].append(column)
    counts = [len(next(iter(kept.values()))[p]) for p in range(len(prompts))]
    if max(counts) < least_seeds:
        raise UserError(f"no prompt has {least_seeds} seeds that all models share")
    seeds = _most_kept(counts, least_seeds)
    full = [p for p in range(len(prompts)) if counts[p] >= seeds]
    short = [prompts[p] for p in range(len(prompts)) if p not in set(full)]
    if short:
        notes.append(f"{len(short)} of {len(prompts)} prompts were left out, since fewer than {seeds} of their "
                     f"generations are there for every model, the first '{short[0]}'; keeping them would have kept "
                     "fewer generations of all others")
    lost += sum(len(found) * (counts[p] - seeds) for p in full)
    if lost:
        notes.append(f"{lost} generations were left out, since their seeds do not exist for every model and prompt")
    if ordered:
        notes.append(f"for {ordered} prompts the seeds are not known, so generations were matched in the order of "
                     "their names; compare only what was made from the same seeds")
    if seeds == 1:
        notes.append("there is one generation of each prompt, so diversity within a prompt is undefined")
    return Matched([prompts[p] for p in full], seeds,
                   {name: [columns[p][:seeds] for p in full] for name, columns in kept.items()}, tuple(notes))


def _most_kept(counts: list[int], least: int) -> int:
    """How many generations of each prompt to keep, so that most are kept overall, and at least half of the prompts.

    One prompt that a stopped command left short is dropped rather than shortening all others.
    """
    usable = sorted({count for count in counts if count >= max(1, least)}, reverse=True)
    enough = [count for count in usable if 2 * sum(each >= count for each in counts) >= len(counts)]
    return max(enough or usable[-1:], key=lambda count: count * sum(each >= count for each in counts))


def _by_prompt(name: str, entries: list[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    if _NONE in groups:
        first = groups[_NONE][0]
        how = "give its row a column prompt" if first.kind == "texts" else (
            "write it into NAME.txt beside NAME.png, or name a manifest with the columns prompt and image")
        raise UserError(f"{name}: {first.path} has no prompt (so {len(groups[_NONE])} of {len(entries)}); {how}")
    return groups


def _common_seeds(columns: dict[str, list[Entry]]) -> tuple[dict[str, list[Entry]], int, bool]:
    """The entries of one prompt on common seeds in one order, how many were left out, whether order had to do."""
    seeds = {name: [entry.seed for entry in column] for name, column in columns.items()}
    if any(None in each or len(set(each)) < len(each) for each in seeds.values()):
        count = min(map(len, columns.values()))
        lost = sum(len(column) - count for column in columns.values())
        return {name: column[:count] for name, column in columns.items()}, lost, len(columns) > 1
    common = sorted(set.intersection(*map(set, seeds.values())))
    by_seed = {name: {entry.seed: entry for entry in column} for name, column in columns.items()}
    lost = sum(len(column) - len(common) for column in columns.values())
    return {name: [each[seed] for seed in common] for name, each in by_seed.items()}, lost, False
