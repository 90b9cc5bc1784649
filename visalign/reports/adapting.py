"""The page and the table of `visalign lm adapt`: what rewriting prompts gained, over what, and what it cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visalign.reports import media_uri, render_page, shown_text
from visalign.storage.files import write_atomically
from visalign.storage.yaml_files import dump_yaml


def interval_in_words(bounds: Sequence[float | None] | None, digits: int = 3) -> str:
    """`+0.437 [+0.318, +0.564]` of (value, low, high); without the interval where it is infinite."""
    if bounds is None:
        return "unknown"
    value, low, high = bounds
    told = f"{value:+.{digits}f}"
    return told if low is None or high is None else f"{told} [{low:+.{digits}f}, {high:+.{digits}f}]"


def percent_in_words(bounds: Sequence[float | None] | None) -> str:
    return "unknown" if bounds is None else " ".join([f"{100 * bounds[0]:+.0f} %"] + (
        [] if None in bounds else [f"[{100 * bounds[1]:+.0f}, {100 * bounds[2]:+.0f}]"]))


def text_lines(found: dict[str, Any]) -> list[list[str]]:
    """Per kind of text: its name, words, cosine with the user's prompt, diversity, and how many fell back."""
    rows = []
    for kind, own in found["texts"].items():
        reasons = ", ".join(f"{reason} {count}" for reason, count in own["fallbacks"].items())
        diversity = ""
        if "diversity" in own:
            diversity = f"{own['diversity'][0]:.2f}, {percent_in_words(own['diversity_change'])}"
        rows.append([kind, f"{own['words'][0]:.1f}", f"{own['similarity'][0]:.2f}", diversity,
                     f"{own['fell_back']} of {found['prompts']}" + (f" ({reasons})" if reasons else "")])
    return rows


def table_in_words(found: dict[str, Any]) -> list[str]:
    """Lines of a terminal: means by reward, gains with 95 % intervals over prompts, and texts."""
    lines = [f"{found['prompts']} held-out prompts, {found['seeds']} seeds each; 95 % intervals over prompts"]
    if found["unscored"]:
        lines.append(f"{found['unscored']} renders have no score by some reward and count in no mean of it")
    for reward in found["rewards"]:
        lines.append(f"\n{reward}")
        lines += [f"  {name:44} {interval_in_words(own[reward])}" for name, own in found["rows"].items()]
        for gain in found["gains"]:
            own = gain["rewards"][reward]
            lines.append(f"  gain over {gain['over']} ({gain['renders']}): {interval_in_words(own['gain'])} "
                         f"{own['word']}")
    lines.append("\ntexts: words, cosine with the user's prompt, diversity and its change, fell back")
    return lines + [f"  {kind:28} {words:>5} {cosine:>6}  {diversity:24} {back}"
                    for kind, words, cosine, diversity, back in text_lines(found)]


def write_adapt_page(folder: Path, settings: dict[str, Any], found: dict[str, Any], stages: dict[str, Any],
                     rows: list[dict[str, Any]]) -> Path:
    """Write report.html. rows: {prompt, cells: [{kind, text, media, refused, written}]} to look at."""
    shown = [{"prompt": shown_text(row["prompt"]), "cells": [
        cell | {"uri": media_uri(cell["media"], 144), "text": shown_text(cell["text"], 300),
                "written": shown_text(cell["written"] or "", 300)} for cell in row["cells"]]} for row in rows]
    figures = [(f"{stage}: {name}", ", ".join(f"{who} {count}" for who, count in value.items())
                if isinstance(value, dict) else value) for stage, own in stages.items() for name, value in own.items()]
    file = folder / "report.html"
    write_atomically(file, render_page(
        "adapt.html.j2", title="Prompts rewritten for a generator", run=folder.name, found=found, rows=shown,
        texts=text_lines(found), figures=figures, settings=dump_yaml(settings), interval=interval_in_words))
    return file
