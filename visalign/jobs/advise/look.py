"""What `visalign advise` sees of data: counted from rows and the beginnings of files, nothing decoded."""

import hashlib
import itertools
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visalign.config import DataSettings, TextDataSettings
from visalign.data.captions import is_captioned
from visalign.data.dimensions import KNOWN, SIDES, is_rating, rated, weighed
from visalign.data.folder import folder_entries
from visalign.data.formats import NAMES, format_of
from visalign.data.label_strength import COLUMNS as LABEL_COLUMNS
from visalign.data.preference_pair import PreferencePair
from visalign.data.preferences import EMBEDDED_PAIRS, RowCounts, hub_rows, is_local, read_pairs
from visalign.data.prompts import PROMPT_COLUMNS, names_prompts, read_prompts
from visalign.data.rows import BadRow, MediaReference, plain_names, table_rows
from visalign.data.seed_preferences import SEED_COLUMNS, read_seed_preferences
from visalign.data.sources import default_root, has_tables, is_table, local_path, table_files
from visalign.data.table_media import TableMedia
from visalign.data.text_pairs import TextPair, is_text_set, read_text_pairs
from visalign.data.thumbs import LABEL
from visalign.errors import UserError
from visalign.media.kinds import is_image_name, is_video
from visalign.media.source_images import SEPARATOR, content_of

MOST_ROWS, FEWER_ROWS, HUB_ROWS = 20_000, 1_000, 100
PHOTOGRAPHS = range(3, 11)
"""So many of one subject."""
LARGE_TABLES = 2**30
"""Bytes of tables above which `FEWER_ROWS` are read: their media lie in them."""
SIZED = 40
"""Images whose headers are read."""
MOST_BROKEN = 1_000
_GOODNESS = {"good", "bad"}
_DIALOGUES = ("conversation", "dialogue")
_PERSUASION, _CORRECTED = {"question", "right", "wrong"}, {"own", "corrected", "truth"}


@dataclass(frozen=True)
class Look:
    """What data are.

    kind: pairs, images (or videos, good ones alone), photographs (without captions), thumbs, ratings, prompts, votes
    (on seeds), items (of a reward), and of text: text pairs, text answers, text labels, corrected (answers), dialogues,
    persuasion. modality: image, video or text. rows:
    pairs, single samples, prompts or texts. whole: whether all rows were looked at. pairs: comparisons among them.
    prompts: how many different ones, of which `asked` is the first. good, bad: thumbs. good_from: the middle of
    ratings. dimensions: in which the rows were labelled. users: pairs of each annotator, most first. rewards: all pairs
    have both, win_rates: from 0 to 1; strengths, chances: some pair has one; annotated: by a reward. folder: of media.
    shapes: whether images differ from squares. edits: with source images; images: texts about images.
    """

    source: str
    kind: str
    modality: str = "image"
    rows: int = 0
    whole: bool = True
    pairs: int = 0
    prompts: int = 0
    asked: str = ""
    good: int = 0
    bad: int = 0
    good_from: float | None = None
    dimensions: tuple[str, ...] = ()
    users: tuple[int, ...] = ()
    rewards: bool = False
    win_rates: bool = False
    annotated: bool = False
    folder: bool = False
    strengths: bool = False
    chances: bool = False
    shapes: bool = False
    edits: bool = False
    images: bool = False
    ties: int = 0
    broken: int = 0
    first_broken: str = ""
    duplicates: int = 0
    contradictory: int = 0

    @property
    def of_language(self) -> bool:
        """Whether a language model learns from them."""
        return self.modality == "text"


def look_at(source: str) -> Look:
    """Raises UserError, in the words of whoever reads such data, for what cannot be read."""
    if names_prompts(source) and source not in EMBEDDED_PAIRS:
        return _prompts(source)
    settings = DataSettings(path=source)
    path = local_path(source)
    if path.is_file() and path.suffix.lower() == ".txt":
        return _prompts(source)
    if source in EMBEDDED_PAIRS or is_local(settings) and path.is_dir() and not has_tables(path):
        return _folder(settings, path)
    row = _first_row(settings)
    return next((look(settings, row) for fits, look in _KINDS if fits(settings, row)), None) or _media(settings, row)


def _folder(settings: DataSettings, path: Path) -> Look:
    """A folder of media; a few images of which none has a caption are photographs."""
    entries = folder_entries(path, "auto") if path.is_dir() else []
    if len(entries) in PHOTOGRAPHS and all(is_image_name(entry.file) and entry.file.parent == path and not (
            entry.prompt or entry.problem) for entry in entries):
        return Look(str(settings.path), "photographs", rows=len(entries), folder=True)
    return replace(_media(settings, {}), folder=path.is_dir())


def _first_row(settings: DataSettings) -> dict:
    """With the names of columns as readers write them; a broken one as it is. Raises UserError where there is none."""
    source = str(settings.path)
    rows = table_rows(source, settings.split) if is_local(settings) else hub_rows(source, settings.split)
    _, row = next(iter(rows), ("", None))
    if row is None:
        raise UserError(f"data {source}: holds no row")
    return plain_names(row, NAMES)


def _is_votes(settings: DataSettings, row: dict) -> bool:
    return row.keys() >= SEED_COLUMNS - {"choice"}


def _votes(settings: DataSettings, row: dict) -> Look:
    votes = read_seed_preferences(str(settings.path))
    return Look(str(settings.path), "votes", rows=len(votes), pairs=len(votes),
                prompts=len({vote.prompt for vote in votes}))


def _counted(kind: str, settings: DataSettings, **more: bool) -> Look:
    """Rows of text of which only the number matters."""
    count = len(list(itertools.islice(table_rows(str(settings.path), settings.split), MOST_ROWS)))
    return Look(str(settings.path), kind, "text", count, count < MOST_ROWS, **more)


def _is_text(settings: DataSettings, row: dict) -> bool:
    return _talks(row) is not None or is_text_set(TextDataSettings(path=settings.path, split=settings.split))


def _talks(row: dict) -> list | None:
    """The messages of a row that is a dialogue of several turns of the user, or is called one."""
    value = next((row[name] for name in (*_DIALOGUES, "messages") if isinstance(row.get(name), list)), None)
    users = [each for each in value or () if isinstance(each, dict) and each.get("role") == "user"]
    return value if len(users) > 1 or any(name in row for name in _DIALOGUES) else None


def _text(settings: DataSettings, row: dict) -> Look:
    source = str(settings.path)
    if _talks(row) is not None and "rejected" not in row:
        return _counted("dialogues", settings)
    compared, broken = "rejected" in row, []
    texts = TextDataSettings(path=source, split=settings.split, max_pairs=MOST_ROWS if is_local(settings) else HUB_ROWS)
    found = read_text_pairs(texts, compared, broken.append)
    labels = Counter(each.desirable for each in found)
    kind = "text pairs" if compared else "text labels" if LABEL in row else "text answers"
    return Look(source, kind, "text", len(found), len(found) < texts.max_pairs, len(found) * compared,
                len({each.prompt for each in found}), found[0].prompt, labels[True], labels[False],
                rewards=_all_rewarded(found), strengths=any(each.strength != 1 for each in found),
                chances=any(each.chance != 1 for each in found), images=any(each.images for each in found),
                **_broken(broken))


def _is_items(settings: DataSettings, row: dict) -> bool:
    return is_captioned(row) and bool(_item_dimensions(row))


def _item_dimensions(row: dict) -> tuple[str, ...]:
    return tuple(name for name, value in row.items() if name != LABEL and str(value).lower() in _GOODNESS)


def _items(settings: DataSettings, row: dict) -> Look:
    look = _media(settings, row)
    return replace(look, kind="items", dimensions=_item_dimensions(row))


def _is_prompts(settings: DataSettings, row: dict) -> bool:
    columns = {name.strip().lower() for name in row}
    texts = str(settings.path).lower().endswith(".json") and not columns & set(PROMPT_COLUMNS)
    return format_of(row) is None and (bool(columns & set(PROMPT_COLUMNS)) or texts and _lists_texts(settings))


def _lists_texts(settings: DataSettings) -> bool:
    """Whether a JSON list holds the prompts themselves."""
    from visalign.data.readers import json_list

    entries = json_list(table_files(str(settings.path), "train")[0])
    return bool(entries) and all(isinstance(each, str) for each in entries)


def _prompts(source: str) -> Look:
    prompts = read_prompts(source)
    return Look(source, "prompts", rows=len(prompts), prompts=len(set(prompts)), asked=prompts[0],
                edits=any(SEPARATOR in prompt for prompt in prompts))


_KINDS = ((_is_votes, _votes),
          (lambda settings, row: row.keys() >= _PERSUASION, lambda settings, row: _counted("persuasion", settings)),
          (lambda settings, row: row.keys() >= _CORRECTED,
           lambda settings, row: _counted("corrected", settings, images=True)),
          (_is_text, _text), (_is_items, _items),
          (_is_prompts, lambda settings, row: _prompts(str(settings.path))))
"""By what a table's first row has, what looks at the table; tables of media are none of these."""


def _media(settings: DataSettings, row: dict) -> Look:
    """Pairs and single samples, as `read_pairs` gives them."""
    source, most = str(settings.path), _most_rows(settings)
    settings = settings.model_copy(update={"dimensions": _own_dimensions(row)})
    counts, broken, pairs = RowCounts(), [], []

    def note(error: BadRow) -> None:
        broken.append(error)
        if len(broken) >= MOST_BROKEN:
            raise error

    try:
        pairs = list(itertools.islice(read_pairs(settings, counts, note, compared=False, again=True), most + 1))
    except UserError:
        if broken:
            raise broken[0] from None
        if not is_rating(row, None):
            raise
    whole, pairs = len(pairs) <= most, pairs[:most]
    compared = [pair for pair in pairs if pair.rejected is not None]
    single = pairs[:len(pairs) - len(compared)] if not compared else []
    labels = counts.labels if single else Counter()
    thumbs = bool(labels[True] or labels[False])
    rated_rows = _ratings(settings, most) if format_of(row) == "ratings" and not thumbs else []
    kind = "thumbs" if thumbs else "ratings" if rated_rows else "pairs" if compared else "images"
    first = pairs[0] if pairs else None
    same, opposite = _repeated(compared)
    return Look(
        source, kind, _modality(first, row), len(rated_rows) or len(pairs), whole, len(compared),
        len({content_of(pair.asked) for pair in pairs}), first.prompt if first else str(row.get("prompt", "")),
        labels[True], labels[False], statistics.median(rated_rows) if rated_rows else None, _dimensions(row, settings),
        tuple(sorted(Counter(pair.user for pair in compared if pair.user).values(), reverse=True)),
        _all_rewarded(compared), _win_rates(compared), row.keys() >= set(LABEL_COLUMNS), False,
        any(pair.strength != 1 for pair in compared) and not rated_rows, any(pair.chance != 1 for pair in compared),
        _shaped(pairs[:SIZED]), any(pair.sources for pair in pairs[:SIZED]),
        ties=counts.ties, duplicates=same, contradictory=opposite, **_broken(broken))


def _most_rows(settings: DataSettings) -> int:
    """How many pairs or samples are read."""
    if settings.path in EMBEDDED_PAIRS:
        return MOST_ROWS
    if not is_local(settings):
        return HUB_ROWS
    path = local_path(str(settings.path))
    files = table_files(str(path), settings.split) if is_table(path) or path.is_dir() and has_tables(path) else []
    return FEWER_ROWS if sum(file.stat().st_size for file in files) > LARGE_TABLES else MOST_ROWS


def _own_dimensions(row: dict) -> dict[str, float] | None:
    """Equal weights for the dimensions of comparisons that visalign does not know by name."""
    found = _compared_in(row)
    return dict.fromkeys(found, 1.0) if found and not {"Overall", *KNOWN} & set(found) else None


def _compared_in(row: dict) -> list[str]:
    if format_of(row) != "comparisons":
        return []
    return [name for name, value in row.items() if isinstance(value, str) and value.strip().lower() in SIDES
            and name not in ("a", "b")]


def _dimensions(row: dict, settings: DataSettings) -> tuple[str, ...]:
    if format_of(row) == "ratings":
        return tuple(name for name in KNOWN if name in row)
    return tuple(name for name in _compared_in(row) if name != "Overall")


def _ratings(settings: DataSettings, most: int) -> list[float]:
    """The mean rating of each row."""
    found = []
    for where, row in itertools.islice(table_rows(str(settings.path), settings.split), most):
        *_, ratings, weights = rated(row, where, [default_root(str(settings.path))], settings.dimensions)
        found.append(weighed(ratings, weights))
    return found


def _modality(pair: PreferencePair | None, row: dict) -> str:
    if pair is None:
        return "video" if any(isinstance(each, str) and is_video(each) for each in row.values()) else "image"
    data = pair.chosen.read() if isinstance(pair.chosen, TableMedia) else pair.chosen
    return "video" if isinstance(data, str) and Path(data).is_dir() or is_video(data) else "image"


def _shaped(pairs: list[PreferencePair]) -> bool:
    """Whether at least a quarter of the images are a fifth longer than wide, or wider than long."""
    if not pairs or _modality(pairs[0], {}) == "video":
        return False
    sizes = [pair.size() for pair in pairs]
    return 4 * sum(max(size) > 1.2 * min(size) for size in sizes) >= len(sizes)


def _repeated(pairs: Iterable[PreferencePair]) -> tuple[int, int]:
    """How many pairs repeat an earlier one of the same user, and how many turn one, by files and bytes as they are
    stored."""
    earlier: dict[tuple, str] = {}
    same = opposite = 0
    for pair in pairs:
        chosen, rejected = (_name(each) for each in pair.stored())
        first = earlier.setdefault((pair.user, content_of(pair.asked), *sorted((chosen, rejected))), chosen)
        opposite += first != chosen
        same += first == chosen
    return same - len(earlier), opposite


def _name(data: MediaReference) -> str:
    if isinstance(data, TableMedia):
        return data.digest
    return hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else data


def _all_rewarded(pairs: list[PreferencePair] | list[TextPair]) -> bool:
    return bool(pairs) and all(None not in (pair.chosen_reward, pair.rejected_reward) for pair in pairs)


def _win_rates(pairs: list[PreferencePair]) -> bool:
    return _all_rewarded(pairs) and all(0 <= pair.rejected_reward <= pair.chosen_reward <= 1 for pair in pairs)


def _broken(found: list[UserError]) -> dict[str, Any]:
    return {"broken": len(found), "first_broken": str(found[0]) if found else ""}
