"""Which rows of a preference set are usable, and what happens to the others (data.on_error)."""

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from visalign.config import DataSettings
from visalign.config.fitting import recipes_for
from visalign.data.goals import check_has_rewards
from visalign.data.label_strength import say_what_was_turned
from visalign.data.preference_pair import PreferencePair
from visalign.data.preferences import RowCounts, is_local, read_pairs
from visalign.data.rows import MediaReference
from visalign.data.table_media import TableMedia
from visalign.data.thumbs import check_both_kinds
from visalign.data.users import check_users
from visalign.errors import UserError, notice
from visalign.media.image_files import BROKEN_IMAGE, decode_image, open_image
from visalign.media.kinds import is_video
from visalign.storage.files import write_atomically

PROBED = 1000
"""Pairs of a table whose images, where they lie in the table itself, are opened before a model is loaded."""

SCORED = "; give both columns, or set data.score_with"
"""How a pair gets the rewards that become goals."""


class BrokenRows:
    """How unusable rows are handled: `stop` ends the run, `skip` counts, lists and bounds them.

    patience: how many are collected before a run ends, so that they can be fixed together.
    """

    def __init__(self, settings: DataSettings, patience: int = 1):
        self.settings, self.patience = settings, patience
        self.found: dict[str, None] = {}

    def note(self, error: UserError) -> None:
        """Record one row. Raises UserError where the run has to end."""
        self.found[str(error)] = None
        if self.settings.on_error == "stop" and len(self.found) >= self.patience:
            self.check(0)

    def check(self, usable: int) -> None:
        """Raise UserError when broken rows are not allowed, or too many are broken."""
        broken, first = len(self.found), list(self.found)[:5]
        if broken and self.settings.on_error == "stop":
            at_least = "at least " * (broken >= self.patience)
            more = f" (the first of {at_least}{broken})" if broken > len(first) else ""
            raise UserError(f"{'; '.join(first)}{more}; fix or remove such rows, or leave them out with "
                            "data.on_error=skip")
        if broken and broken / (broken + usable) > self.settings.max_skipped:
            raise UserError(f"data {self.settings.named}: {broken} of {broken + usable} rows cannot be used, more than "
                            f"the share {self.settings.max_skipped:g} of data.max_skipped; the first is {first[0]}")

    def write(self, file: Path) -> None:
        """One line for each row that was left out; no file where there is none."""
        if self.found:
            lines = "".join(json.dumps({"reason": reason}, ensure_ascii=False) + "\n" for reason in self.found)
            write_atomically(file, lines.encode("utf-8", "backslashreplace"))
            notice(f"{len(self.found)} rows could not be used and were left out; {file} lists them")


class FoundPairs(NamedTuple):
    """What is known of a run's pairs before a model is loaded, nothing where a source is on the hub.

    prompts: the distinct ones, those of prior sets aside. sizes: how many pairs each source has, repeated ones as often
    as they are. pairs: how many there are in all, each once. texts: how many prompts, all captions of all sources
    included, and at most how many with goals.
    """

    prompts: list[str]
    sizes: list[int]
    pairs: int = 0
    texts: int = 0


def check_pair_sources(settings: DataSettings, compared: bool = True, labelled: bool = False,
                       each: Callable[[PreferencePair], None] | None = None) -> FoundPairs:
    """Read every row and the beginning of every image (of those that lie in a table, the first `PROBED` pairs'), of a
    hub set only those of the first pair.

    compared: whether the objective learns from both images; labelled: from good and bad ones apart. each: raises
    UserError for a pair that the run cannot learn from, which nothing leaves out. Raises UserError
    for every mistake that can be found before anything is loaded.
    """
    broken, prompts, sizes, pairs = BrokenRows(settings, 20), {}, [], 0
    texts: set[tuple] = set()
    labels: Counter = Counter()
    of_users: Counter = Counter()
    local = all([is_local(source) for source in settings.each])
    for place, source in enumerate(settings.each):
        found = _check_source(source, broken, compared, texts, labels if labelled else None, of_users, each)
        sizes.append(found.sizes[0] * settings.repeats(place))
        pairs += found.pairs
        prompts |= dict.fromkeys(() if settings.is_prior(place) else found.prompts)
    broken.check(pairs)
    if labelled and local:
        check_both_kinds(labels, f"data {settings.named}", settings)
    if settings.users and local:
        check_users(of_users, settings.users, settings.named)
    return FoundPairs(list(prompts), sizes, pairs, len(texts)) if local else FoundPairs([], [])


def _check_source(settings: DataSettings, broken: BrokenRows, compared: bool, texts: set[tuple],
                  labels: Counter | None, of_users: Counter,
                  each: Callable[[PreferencePair], None] | None) -> FoundPairs:
    """One source alone; `texts` gets its prompts, each with the goals that are asked for, `labels`, where single
    samples are wanted, how many are good, and `of_users`, where users are, how many pairs each has of each prompt."""
    prompts, pairs, same, repeated, turned, unknown = {}, 0, 0, 0, 0, 0
    counts = RowCounts()
    found = itertools.islice(read_pairs(settings, counts, broken.note, compared, again=True,
                                        labelled=labels is not None),
                             None if is_local(settings) else 1)
    try:
        for pair in tqdm(found, desc="checking the pairs", unit="pair", leave=False, delay=2):
            try:
                for data in (*pair.stored(), *pair.sources):
                    if isinstance(data, str) or pairs < PROBED:
                        _probe(data, pair.where)
            except UserError as error:
                broken.note(error)
                continue
            if each:
                each(pair)
            prompts[pair.asked] = None
            texts |= {(text, goal) for text in filter(None, (
                pair.asked, pair.rejected_asked, *pair.asked_otherwise)) for goal in _goals(pair, settings)}
            pairs, same = pairs + 1, same + (pair.chosen == pair.rejected)
            repeated, turned = repeated + pair.repeats, turned + pair.turned
            unknown += pair.label_margin is None
            if settings.users:
                of_users[pair.user, pair.asked] += 1
            if labels is not None:
                labels[pair.desirable] += 1
    except UserError:
        broken.check(pairs)  # where no pair is left, the faults of the rows explain it
        raise
    if compared and pairs:
        check_different(f"data {settings.path}", pairs, same)
    if settings.strength and pairs and is_local(settings):
        say_what_was_turned(settings.strength, pairs, turned, unknown)
    good, bad = counts.labels[True], counts.labels[False]
    if labels is None and good and bad:
        notice(f"data {settings.path}: its column label says that {bad} of {good + bad} samples are bad, and this "
               f"objective learns from all alike; to tell them apart take {recipes_for('thumbs')}")
    return FoundPairs(list(prompts), [repeated], pairs)


def _goals(pair: PreferencePair, settings: DataSettings) -> tuple:
    """What a prompt is asked with, told apart. Raises UserError for a pair without rewards where they become goals."""
    if not settings.goals:
        return (None,)
    if settings.score_with:
        return (f"{pair.where}, chosen", f"{pair.where}, rejected")
    check_has_rewards(pair, SCORED)
    return pair.chosen_reward, pair.rejected_reward


def check_rewarded(pair: Any) -> None:
    """Raise UserError for a pair, of images or as it is encoded, that does not say how good both samples are."""
    if None in (pair.chosen_reward, pair.rejected_reward):
        raise UserError(f"{pair.where}: this objective needs rewards; give columns chosen_reward and rejected_reward, "
                        f"or set data.score_with, or learn from which is better alone: {recipes_for('pairs')}")


def check_different(source: str, pairs: int, same: int) -> None:
    """Raise UserError when there is no pair to learn from, or all consist of one image twice."""
    if not pairs:
        raise UserError(f"{source}: holds no usable pair")
    if pairs == same:
        raise UserError(f"{source}: chosen and rejected are the same image in all {pairs} pairs, so there is nothing "
                        "to learn")
    if same:
        notice(f"{source}: in {same} of {pairs} pairs chosen and rejected are the same image, which teaches nothing")


def _probe(data: MediaReference, where: str) -> None:
    """Raise UserError for what does not begin like an image; nothing is decoded, and videos are not opened."""
    data = data.read() if isinstance(data, TableMedia) else data
    if isinstance(data, str) and Path(data).is_dir() or is_video(data):
        return
    try:
        open_image(data).close()
    except BROKEN_IMAGE:
        decode_image(data, where, 1)  # raises with the reason
