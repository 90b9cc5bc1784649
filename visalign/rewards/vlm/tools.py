"""What other rewards see of a sample, told to a model that is asked in words: as in Anyprefer (Zhou et al.
2025, its abstract; the form of the facts is ours).

A tool is any reward. One that reads, such as `ocr`, tells what it read, the others their values; one that finds nothing
out about a sample is told as not available, and nothing is made up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from visalign.media.samples import Sample
from visalign.rewards.base import Reward
from visalign.rewards.sizes import sum_of
from visalign.rewards.vlm.asking import AskingJudge
from visalign.rewards.vlm.questions import Question


@dataclass
class ToldByTools(AskingJudge):
    """Base of those asked in words that are told what tools found. tools: other rewards; their facts are lines of the
    question, and so part of what answers are remembered by."""

    tools: Any = field(default_factory=list)

    def __post_init__(self):
        super().__post_init__()
        names = [tool.name for tool in self.tools]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"tools: two are named {twice}; give them names with {{kind: ..., name: ...}}")
        grouped = next((tool.name for tool in self.tools if tool.needs_group), None)
        if grouped:
            raise ValueError(f"tools: {grouped} compares samples with each other; take rewards that see one alone")

    def check(self) -> None:
        super().check()
        for tool in self.tools:
            tool.check()

    def to(self, device: str) -> None:
        super().to(device)
        for tool in self.tools:
            tool.to(device)

    def held_bytes(self) -> int | None:
        return sum_of([super().held_bytes(), *(tool.held_bytes() for tool in self.tools)])

    def facts(self, samples: Sequence[Sample]) -> list[list[str]]:
        """Lines of each sample, in the order of the tools."""
        columns = [facts_by(tool, list(samples)) for tool in self.tools]
        return [[column[i] for column in columns] for i in range(len(samples))]


def facts_by(tool: Reward, samples: list[Sample]) -> list[str]:
    """A line of each sample: what the tool read, or its values."""
    if hasattr(tool, "read_in"):
        return [f"{tool.name} read: {said}" for said in (tool.read_in(sample) for sample in samples)]
    one, lines = len(tool.dimensions) == 1, []
    for row in tool.score(samples).values.tolist():
        known = [f"{value:.3g}" if one else f"{name} {value:.3g}"
                 for name, value in zip(tool.dimensions, row, strict=True) if math.isfinite(value)]
        lines.append(f"{tool.name}: {', '.join(known) or 'not available'}")
    return lines


def with_facts(question: Question, *facts: Sequence[str]) -> Question:
    """The question with the facts of what it shows, of several one after the other."""
    many = len(facts) > 1
    lines = [f"- {f'of {number}, ' if many else ''}{line}" for number, each in enumerate(facts, 1) for line in each]
    return replace(question, text="\n".join([question.text, "Tools found:", *lines])) if lines else question
