"""Which rows of a preference set can be used, and what becomes of the others (data.on_error)."""

import itertools
import json
from pathlib import Path

from tqdm import tqdm

from visalign.config import DataSettings
from visalign.data.preferences import RowCounts, is_local, read_pairs
from visalign.data.rows import MediaReference
from visalign.errors import UserError, notice
from visalign.media.image_files import BROKEN_IMAGE, decode_image, open_image
from visalign.media.kinds import is_video
from visalign.storage.files import write_atomically


class BrokenRows:
    """What is done about rows that cannot be used: `stop` ends the run, `skip` counts, lists and bounds them.

    patience: how many are looked for before a run ends, so that they can be mended together.
    """

    def __init__(self, settings: DataSettings, patience: int = 1):
        self.settings, self.patience = settings, patience
        self.found: dict[str, None] = {}

    def note(self, error: UserError) -> None:
        """Take down one row. Raises UserError where the run is to end."""
        self.found[str(error)] = None
        if self.settings.on_error == "stop" and len(self.found) >= self.patience:
            self.check(0)

    def check(self, usable: int) -> None:
        """Raise UserError when there may be no broken row, or too large a share is broken."""
        broken, first = len(self.found), list(self.found)[:5]
        if broken and self.settings.on_error == "stop":
            at_least = "at least " * (broken >= self.patience)
            more = f" (the first of {at_least}{broken})" if broken > len(first) else ""
            raise UserError(f"{'; '.join(first)}{more}; mend or remove such rows, or leave them out with "
                            "data.on_error=skip")
        if broken and broken / (broken + usable) > self.settings.max_skipped:
            raise UserError(f"data {self.settings.path}: {broken} of {broken + usable} rows cannot be used, more than "
                            f"the share {self.settings.max_skipped:g} of data.max_skipped; the first is {first[0]}")

    def write(self, file: Path) -> None:
        """One line for each row that was left out; no file where there is none."""
        if self.found:
            lines = "".join(json.dumps({"reason": reason}, ensure_ascii=False) + "\n" for reason in self.found)
            write_atomically(file, lines.encode("utf-8", "backslashreplace"))
            notice(f"{len(self.found)} rows could not be used and were left out; {file} lists them")


def check_pair_source(settings: DataSettings, compared: bool = True) -> list[str]:
    """The prompts of a source, once each, after every row was read and every image's beginning.

    Of a hub set only the first pair is looked at, and no prompts are known. compared: whether the objective learns from
    both images. Raises UserError for whatever can be known to be wrong before anything is loaded.
    """
    broken, prompts, pairs, same, local = BrokenRows(settings, 20), {}, 0, 0, is_local(settings)
    found = itertools.islice(read_pairs(settings, RowCounts(), broken.note, compared), None if local else 1)
    try:
        for pair in tqdm(found, desc="looking at the pairs", unit="pair", leave=False, delay=2):
            try:
                for data in pair.stored():
                    _probe(data, pair.where)
            except UserError as error:
                broken.note(error)
                continue
            prompts[pair.prompt] = None
            pairs, same = pairs + 1, same + (pair.chosen == pair.rejected)
    except UserError:
        broken.check(pairs)  # that no pair is left is explained by what is wrong with each
        raise
    broken.check(pairs)
    if compared:
        check_different(f"data {settings.path}", pairs, same)
    return list(prompts) if local else []


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
    """Raise UserError for what is no image by its beginning; nothing is decoded, and videos are not opened."""
    if isinstance(data, str) and Path(data).is_dir() or is_video(data):
        return
    try:
        open_image(data).close()
    except BROKEN_IMAGE:
        decode_image(data, where, 1)  # says what is wrong
