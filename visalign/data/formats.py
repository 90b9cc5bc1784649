"""The public formats of preference data: the columns of each, and how a row becomes pairs.

A converter is called with (row, where, roots) for the rows in turn; roots: folders that relative paths may start from.
It returns the pairs, [] where there is no preference (a tie, or no label), or None where the row only adds to later
ones. It raises BadRow for what it cannot use.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visalign.config.fitting import recipes_for
from visalign.config.sources import CaptionSettings
from visalign.data.captions import from_captioned, is_captioned
from visalign.data.dimensions import Ratings, from_comparison, is_comparison, is_rating
from visalign.data.edits import KEPT_SOURCES, SOURCES_OF_ROW, row_notes, row_sources, source_columns
from visalign.data.generations import MEDIA_KEYS
from visalign.data.preference_pair import PreferencePair
from visalign.data.rows import (
    BadRow,
    media_reference,
    plain_names,
    row_chance,
    row_number,
    row_prompt,
    row_strength,
    row_user,
    says_yes,
    shortened,
    take,
)
from visalign.data.thumbs import RatedThumbs, is_thumb, thumbs_of_row
from visalign.data.wordings import CAPTION_KEYS, row_captions, wordings
from visalign.errors import UserError, nearest
from visalign.media.source_images import EDIT_NOTES

Roots = Sequence[Path]
Converter = Callable[[dict, str, Roots], list[PreferencePair] | None]
IMAGE_LISTS = ("file_path", "image_path", "image_paths", "images", "image")
TIES = {"tie", "same", "draw", "equal"}
NAMES = frozenset(("prompt", "chosen", "rejected", "tie", "label", "strength", "chosen_reward", "rejected_reward",
                   "chance", "user", "rejected_prompt", "path1", "path2", "path_src", "tie_case", "source",
                   "sources", *EDIT_NOTES, "rank", "human_preference", *IMAGE_LISTS, *CAPTION_KEYS,
                   *MEDIA_KEYS))


@dataclass(frozen=True)
class Format:
    """fits(row, weights): whether a row has its columns, which `columns` names; build(weights) gives the converter.

    compares: whether its rows say which of two is better.
    """

    columns: str
    fits: Callable[[dict, dict | None], bool]
    build: Callable[[dict | None], Converter]
    compares: bool = True


class Converters:
    """Turns rows into pairs by one format, or by the one that each row's columns fit (`auto`).

    compared: whether a pair without its rejected half is refused. labelled: whether single samples that are good or bad
    are wanted, pairs being two of them; good_from: the rating that makes a sample a good one. kept: the folder for
    source images that are in the table itself.
    """

    def __init__(self, name: str, weights: dict[str, float] | None, compared: bool = True,
                 kept: str | Path = KEPT_SOURCES, captions: CaptionSettings | None = None, labelled: bool = False,
                 good_from: float | None = None):
        self.name, self.weights, self.compared, self.kept = name, weights, compared, kept
        self.labelled, self.good_from = labelled, good_from
        self.captions = captions or CaptionSettings()
        self._built = {each: FORMATS[each].build(weights) for each in FORMATS}
        if good_from is not None:
            self._built["ratings"] = RatedThumbs(weights, good_from)

    def __call__(self, row: dict, where: str, roots: Roots) -> list[PreferencePair] | None:
        row = plain_names(row, NAMES)
        captions = row_captions(row, where, self.captions)
        if captions or not any(row.get(key) for key in CAPTION_KEYS) and self.captions.default:
            row = {name: value for name, value in row.items() if name not in CAPTION_KEYS} | dict.fromkeys(
                CAPTION_KEYS[:2], captions[0] if captions else self.captions.default)
        sources = row_sources(row, where, roots, self.kept, source_columns(row))
        pairs = self._convert(row | {SOURCES_OF_ROW: sources} if sources else row, where, roots)
        if sources and pairs:
            notes = row_notes(row, where, roots, self.kept)
            pairs = [replace(pair, sources=sources, notes=notes) for pair in pairs]
        pairs = pairs and [self._worded(pair, captions) for pair in pairs]
        if self.labelled:
            pairs = pairs and thumbs_of_row(pairs, row, where)
        if self.compared and any(pair.rejected is None for pair in pairs or ()):
            raise _without_rejected(row, where)
        return pairs

    def _worded(self, pair: PreferencePair, captions: tuple[str, ...]) -> PreferencePair:
        """The pair with every prompt that it is learnt with."""
        prompts = wordings(captions or (pair.prompt,), self.captions)
        if not prompts:
            raise BadRow(f"{pair.where}: nothing is left of its caption once its wildcards are taken")
        return pair if prompts == (pair.prompt,) else replace(pair, prompt=prompts[0], captions=prompts[1:])

    def _convert(self, row: dict, where: str, roots: Roots) -> list[PreferencePair] | None:
        if self.good_from is not None:
            if not is_rating(row, self.weights):
                raise BadRow(f"{where}: has no ratings for data.good_from (its columns are {_names(row)}); name those "
                             "that are in data.dimensions, or leave data.good_from out")
            return self._built["ratings"](row, where, roots)
        if self.labelled and self.name == "auto" and is_thumb(row):
            return self._built["captioned"](row, where, roots)
        if self.name in FORMATS and FORMATS[self.name].fits(row, self.weights):
            return self._by(self.name, row, where, roots)
        found = format_of(row, self.weights)
        if self.name in FORMATS:
            if found:
                raise BadRow(f"{where}: is not of the format {self.name} ({FORMATS[self.name].columns}); its columns "
                             f"are {_names(row)}, those of data.format={found}")
            return self._built[self.name](row, where, roots)
        if not found:
            alone = f"; prompts alone are for {recipes_for('prompts')}" if row.keys() & set(CAPTION_KEYS) else ""
            raise BadRow(f"{where}: its columns ({_names(row)}) are not those of a known preference set: "
                         + "; ".join(f"{name} has {each.columns}" for name, each in FORMATS.items()) + alone)
        return self._by(found, row, where, roots)

    def _by(self, name: str, row: dict, where: str, roots: Roots) -> list[PreferencePair] | None:
        if self.compared and not FORMATS[name].compares:
            what = "a label and no rejected one" if is_thumb(row) else "its caption and no rejected one"
            raise UserError(f"{where}: is one image or video with {what}, and this objective or data.score_with needs "
                            "two of a prompt, such as the columns prompt, chosen, rejected; of such data take "
                            f"{recipes_for('thumbs' if is_thumb(row) else 'images')}")
        return self._built[name](row, where, roots)


def _without_rejected(row: dict, where: str) -> BadRow:
    near = nearest("rejected", row)
    state = "is empty" if "rejected" in row else f"is missing{near if 'did you mean' in near else ''}"
    return BadRow(f"{where}: 'rejected' {state}, and this objective or data.score_with needs two of a prompt; of "
                  f"chosen samples alone take {recipes_for('images')}")


def _names(row: dict) -> str:
    return shortened(", ".join(sorted(row.keys() - {SOURCES_OF_ROW})) or "none", 200)


def _from_pickapic(row: dict, where: str, roots: Roots) -> list[PreferencePair]:
    """Labels 1 and 0, or 0.5 twice for a tie; rows that nobody labelled say so in `has_label`."""
    prompt = row_prompt(row, "caption", where)
    if row.get("has_label") is not None and not says_yes(row, "has_label", where):
        return []
    take(row, "label_0", where)
    label, other = row_number(row, "label_0", where), row_number(row, "label_1", where)
    if label not in (0, 0.5, 1) or other not in (None, 1 - label):
        raise BadRow(f"{where}: 'label_0' is {row.get('label_0')!r} and 'label_1' {row.get('label_1')!r} (allowed: 1 "
                     "and 0, 0 and 1, or 0.5 and 0.5)")
    if label == 0.5:
        return []
    if row.get("jpg_0") is None and row.get("image_0_url"):
        raise BadRow(f"{where}: has the images' web addresses only (image_0_url), and nothing is downloaded; get the "
                     "set that holds the images (jpg_0, jpg_1)")
    images = [media_reference(take(row, key, where), key, where, roots) for key in ("jpg_0", "jpg_1")]
    chosen, rejected = images if label == 1 else reversed(images)
    return [PreferencePair(prompt, chosen, rejected, where, user=row_user(row, where, "user_id"))]


def _from_hpd(row: dict, where: str, roots: Roots) -> list[PreferencePair]:
    """Several images of a prompt: `human_preference` holds 1 for the preferred one of two (HPD v2's train.json),
    `rank` the rank of each (its test.json, ImageRewardDB's groups), or `raw_annotations` each annotator's ranks."""
    prompt = row_prompt(row, "prompt", where)
    key = next((key for key in IMAGE_LISTS if row.get(key)), IMAGE_LISTS[0])
    paths, preferred = take(row, key, where), row.get("human_preference")
    places = preferred if preferred is not None else row.get("rank", row.get("ranks"))
    if places is None:
        places = _mean_ranks(row.get("raw_annotations", row.get("raw_annotation")))
    if not isinstance(paths, list) or not _are_numbers(places) or not 1 < len(paths) == len(places):
        raise BadRow(f"{where}: needs two images or more, and as many numbers in 'human_preference' (or "
                     "'rank')")
    if preferred is not None:
        places = [-place for place in places]
    folders = [*roots, *(root / name for root in roots for name in ("train", "test"))]
    pairs = []
    for a, b in itertools.combinations(range(len(paths)), 2):
        if places[a] != places[b]:
            chosen, rejected = (a, b) if places[a] < places[b] else (b, a)
            pairs.append(PreferencePair(prompt, media_reference(paths[chosen], key, where, folders),
                              media_reference(paths[rejected], key, where, folders), where))
    return pairs


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(each, int | float) and abs(each) < 1e9 for each in values)


def _mean_ranks(annotations: Any) -> list[float] | None:
    ranks = [each.get("rank") if isinstance(each, dict) else each for each in annotations or ()]
    if not ranks or not all(_are_numbers(each) and len(each) == len(ranks[0]) for each in ranks):
        return None
    return [sum(places) / len(ranks) for places in zip(*ranks, strict=True)]


def _from_hpdv3(row: dict, where: str, roots: Roots) -> list[PreferencePair]:
    """HPD v3: `path1` is the preferred image; `choice_dist`, where given, the votes for each."""
    prompt, votes = row_prompt(row, "prompt", where), row.get("choice_dist")
    if isinstance(votes, list) and len(votes) == 2 and votes[0] == votes[1]:
        return []
    first, second = (media_reference(take(row, key, where), key, where, roots) for key in ("path1", "path2"))
    return [PreferencePair(prompt, first, second, where)]


def _from_editreward(row: dict, where: str, roots: Roots) -> list[PreferencePair]:
    """EditReward-Data: `path1` is the preferred edit of `path_src` but where `tie_case` says that neither is; the
    annotators' overall marks are the pair's rewards."""
    if says_yes(row, "tie_case", where):
        return []
    take(row, "path_src", where)
    return [replace(pair, chosen_reward=row_number(row, "model1_overall_score", where),
                    rejected_reward=row_number(row, "model2_overall_score", where))
            for pair in _from_hpdv3(row, where, roots)]


class _Ranked:
    """ImageRewardDB's rows: one image each with its `rank` (1 is best) among those of its `prompt_id`.

    Each is compared with the earlier ones of its prompt.
    """

    def __init__(self, weights: dict | None):
        self._seen: dict[Any, list[tuple[float, Any]]] = {}

    def __call__(self, row: dict, where: str, roots: Roots) -> list[PreferencePair] | None:
        prompt = row_prompt(row, "prompt", where)
        key = next((key for key in ("image", "image_path") if row.get(key)), "image_path")
        take(row, "rank", where)
        rank = row_number(row, "rank", where)
        media = media_reference(take(row, key, where), key, where, roots)
        earlier = self._seen.setdefault((row.get("prompt_id") or prompt, row.get(SOURCES_OF_ROW)), [])
        pairs = [PreferencePair(prompt, *((media, other) if rank < theirs else (other, media)), f"{where} with {there}")
                 for theirs, other, there in earlier if rank != theirs]
        first = not earlier
        earlier.append((rank, media, where))
        return None if first else pairs


def _from_better(row: dict, where: str, roots: Roots) -> list[PreferencePair]:
    """ImageRewardDB's ready pairs: img_better and img_worse."""
    better, worse = (media_reference(take(row, key, where), key, where, roots) for key in ("img_better", "img_worse"))
    return [PreferencePair(row_prompt(row, "prompt", where), better, worse, where)]


def _from_imagereward(weights: dict | None) -> Converter:
    ranked = _Ranked(weights)
    return lambda row, where, roots: (_from_better if "img_better" in row else ranked)(row, where, roots)


def _from_table(row: dict, where: str, roots: Roots) -> list[PreferencePair]:
    prompt = row_prompt(row, "prompt", where)
    if str(row.get("label")).strip().lower() in TIES or says_yes(row, "tie", where):
        return []
    rejected = None if row.get("rejected") in (None, "") else media_reference(row["rejected"], "rejected", where, roots)
    other = None if row.get("rejected_prompt") in (None, "") else row_prompt(row, "rejected_prompt", where)
    if other and rejected is None:
        raise BadRow(f"{where}: has a 'rejected_prompt' and no 'rejected' sample, which it would be of")
    return [PreferencePair(prompt, media_reference(take(row, "chosen", where), "chosen", where, roots), rejected, where,
                 row_strength(row, where), row_number(row, "chosen_reward", where),
                 row_number(row, "rejected_reward", where), row_chance(row, where), row_user(row, where),
                 rejected_prompt=other)]


def _is_table(row: dict, weights: dict | None) -> bool:
    """Includes tables meant to be one: a misspelt column is named by the reader."""
    return bool({"chosen", "rejected", "tie"} & row.keys()) or any(
        "did you mean" in nearest(name, row) for name in ("chosen", "rejected") if row)


def _is_hpd(row: dict, weights: dict | None) -> bool:
    listed = any(isinstance(row.get(key), list) for key in IMAGE_LISTS)
    return "human_preference" in row or listed and "prompt" in row and "chosen" not in row


FORMATS: dict[str, Format] = {
    "pickapic": Format("caption, jpg_0, jpg_1, label_0", lambda row, _: "jpg_0" in row or "label_0" in row,
                       lambda _: _from_pickapic),
    "hpd": Format("prompt, file_path or image_path (a list), human_preference or rank (a list)", _is_hpd,
                  lambda _: _from_hpd),
    "editreward": Format("prompt, path_src, path1 (preferred), path2, tie_case",
                         lambda row, _: bool({"path_src", "tie_case"} & row.keys()), lambda _: _from_editreward),
    "hpdv3": Format("prompt, path1 (preferred), path2", lambda row, _: {"path1", "path2"} <= row.keys(),
                    lambda _: _from_hpdv3),
    "imagereward": Format("prompt_id, prompt, image_path, rank; or prompt, img_better, img_worse",
                          lambda row, _: "rank" in row and "prompt_id" in row or "img_better" in row,
                          _from_imagereward),
    "comparisons": Format("prompt, a, b (or path_A, path_B) and who won each dimension",
                          lambda row, _: is_comparison(row),
                          lambda weights: functools.partial(from_comparison, weights=weights)),
    "ratings": Format("prompt, a file, and a number in each dimension", is_rating, Ratings),
    "captioned": Format(f"{' or '.join(CAPTION_KEYS)}, and one image or video", lambda row, _: is_captioned(row),
                        lambda _: from_captioned, compares=False),
    "table": Format("prompt, chosen, rejected", _is_table, lambda _: _from_table),
}
"""By the setting's value, in the order in which `auto` tries them."""


def format_of(row: dict, weights: dict[str, float] | None = None) -> str | None:
    """The format whose columns a row has; None where it has those of none."""
    return next((name for name, each in FORMATS.items() if each.fits(row, weights)), None)
