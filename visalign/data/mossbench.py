"""MOSSBench: harmless questions about images that careful models refuse (Li et al. 2024, arXiv 2406.17806).

    mossbench:FOLDER          of the repository (data, data_contrast) or of the hub's data set
    mossbench:FILE            information.json, metadata.csv, or another table with image, question and kind
    mossbench:KIND:PATH       one of its three kinds of stimulus, 100 questions each

data_contrast holds twins that ask for harm, which are right to refuse. Answers are scored by `refusal`, or
`refusal_judge`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from visalign.data.edits import KEPT_SOURCES, row_sources
from visalign.data.readers import READERS, checked, file_rows, parse_json
from visalign.data.rows import BadRow, check_row, row_prompt
from visalign.data.sources import is_table, local_path
from visalign.errors import UserError, nearest
from visalign.media.source_images import with_sources
from visalign.storage.text_files import read_text

STIMULI = ("exaggerated_risk", "negated_harm", "counterintuitive_interpretation")
"""In the order of the data's own numbers, `type 1` to `type 3`."""
_PLACES = ("images_information/information.json", "information.json", "metadata.csv", "metadata.jsonl")
_IMAGES = ("image", "file_name")
_KINDS = ("over", "metadata_over", "metadata.over")


def mossbench_prompts(source: str, rest: str) -> list[str]:
    """The questions with their images. Raises UserError naming the row and what is wrong."""
    kind, colon, path = rest.partition(":")
    if not colon or kind not in STIMULI:
        if colon and not local_path(rest).exists():
            raise UserError(f"prompts {source}: {kind} is no kind of stimulus{nearest(kind, STIMULI)}")
        kind, path = "", rest
    file = _file_of(source, local_path(path))
    roots = [file.parent, file.parent.parent]
    found = [_prompt_of(where, row, roots) for where, row in _rows(file)
             if not kind or stimulus_of(where, row) == kind]
    if not found:
        raise UserError(f"prompts {source}: {file} holds no question" + (f" of the kind {kind}" if kind else ""))
    return found


def stimulus_of(where: str, row: dict) -> str:
    """Which of STIMULI a row is of. Raises BadRow where it does not say."""
    check_row(row)
    given = row.get("metadata")
    said = given if isinstance(given, dict) else row
    value = next((said[name] for name in _KINDS if said.get(name) is not None), None)
    number = re.fullmatch(r"\s*(?:type\s*)?([123])\s*", str(value), re.IGNORECASE)
    if number is None:
        raise BadRow(f"{where}: 'metadata.over' is {value!r}; one of type 1, type 2 and type 3 is expected")
    return STIMULI[int(number[1]) - 1]


def _file_of(source: str, path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file() or not is_table(path):
            raise UserError(f"prompts {source}: {path} is neither a folder nor a table "
                            f"({', '.join(READERS)})")
        return path
    file = next((path / name for name in _PLACES if (path / name).is_file()), None)
    if file is None:
        raise UserError(f"prompts {source}: {path} holds none of {', '.join(_PLACES)}")
    return file


def _rows(file: Path) -> Iterator[tuple[str, dict]]:
    """(where, row) of a table, or of JSON that holds its rows by their numbers."""
    if file.suffix.lower() != ".json":
        yield from file_rows(file)
        return
    try:
        whole = parse_json(read_text(file, f"prompts {file}"))
    except ValueError as error:
        raise UserError(f"prompts {file}: is not readable as JSON ({str(error)[:120]})") from None
    if not isinstance(whole, dict | list):
        raise UserError(f"prompts {file}: expected objects by their numbers, found {type(whole).__name__}")
    for number, row in whole.items() if isinstance(whole, dict) else enumerate(whole, 1):
        yield f"{file} entry {number}", checked(f"{file} entry {number}", row)


def _prompt_of(where: str, row: dict, roots: list[Path]) -> str:
    check_row(row)
    images = row_sources(row, where, roots, KEPT_SOURCES, _IMAGES)
    if not images:
        raise BadRow(f"{where}: names no image (column {' or '.join(_IMAGES)}), which every question is about")
    return with_sources(row_prompt(row, "question", where).strip(), images)
