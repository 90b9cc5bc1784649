"""Names that earlier versions wrote for settings and metrics, and today's names for them.

A file of an earlier version is read with its names replaced; a recipe that a user writes is answered with the new name.
"""

from pathlib import Path
from typing import Any

from visalign.storage.yaml_files import read_mapping

OLD_SETTINGS = {"reward.of": "reward.models", "data.image_root": "data.media_root",
            "data.max_judgements": "data.max_annotations"}
"""Keys of recipes and of a run's config.yaml."""
PROMPT_SETS = {"clips": "videos"}
"""Prompt sets that come with visalign."""
OLD_METRICS = {"variety": "diversity", "unjudged": "unscored", "judging": "scoring",
           "waiting_for_judges": "waiting_for_rewards"}
"""Keys of a run's metrics.jsonl, or their part before a slash."""


def read_run_settings(folder: Path) -> dict[str, Any]:
    """The config.yaml in a run's folder, under today's names. Raises UserError when it cannot be read."""
    settings = read_mapping(folder / "config.yaml", "run")
    for old, new in OLD_SETTINGS.items():
        section, key = old.split(".")
        within = settings.get(section)
        if isinstance(within, dict) and key in within:
            within.setdefault(new.split(".")[1], within.pop(key))
    return _with_new_prompt_sets(settings)


def with_new_metrics(row: Any) -> Any:
    """A row of metrics.jsonl, or any value in one, under today's names."""
    if isinstance(row, dict):
        return {_new_metric(name): with_new_metrics(value) for name, value in row.items()}
    return [with_new_metrics(value) for value in row] if isinstance(row, list) else row


def _new_metric(name: str) -> str:
    head, slash, rest = name.partition("/")
    return f"{OLD_METRICS.get(head, head)}{slash}{rest}"


def _with_new_prompt_sets(settings: dict[str, Any]) -> dict[str, Any]:
    for name, value in settings.items():
        if isinstance(value, dict):
            _with_new_prompt_sets(value)
        elif name == "prompts" and isinstance(value, str):
            kind, colon, rest = value.partition(":")
            settings[name] = f"{PROMPT_SETS.get(kind, kind)}{colon}{rest}"
    return settings
