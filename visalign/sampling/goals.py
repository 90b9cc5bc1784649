"""The goals that an exported model knows (`goals.json`), and the one that a sampler asks for."""

import json
from pathlib import Path

from pydantic import ValidationError

from visalign.config.goals import GOALS_FILE, PromptGoalSettings
from visalign.errors import UserError
from visalign.storage.text_files import read_text


def known_goals(place: Path) -> PromptGoalSettings | None:
    """The goals of an export, by its folder, a file of it, its pipeline or the run; None where it has none.

    Raises UserError for a file that no run writes.
    """
    folders = place, place / "export", place.parent
    file = next((folder / GOALS_FILE for folder in folders if (folder / GOALS_FILE).is_file()), None)
    if file is None:
        return None
    try:
        return PromptGoalSettings.model_validate(json.loads(read_text(file, f"goals {file}")))
    except (ValidationError, ValueError, RecursionError):
        raise UserError(f"goals {file}: is not what a run with data.goals writes; train or copy the export again"
                        ) from None


def asking_for(goal: str, place: Path) -> str:
    """What prompts are put into to ask a model for a score: `best`, or a number of its scale. Raises UserError."""
    settings = known_goals(place)
    if settings is None:
        raise UserError(f"--goal {goal}: {place} has no {GOALS_FILE}, which a run with data.goals leaves in its "
                        "export; leave --goal out, or name that export")
    low, high = settings.scale
    try:
        value = high if goal == "best" else float(goal)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise UserError(f"--goal {goal}: this model knows goals from {low:g} to {high:g} (or best)")
    return settings.asking(value)
