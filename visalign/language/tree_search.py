"""A search tree over the steps of an answer: UCT, values from completed answers, pairs of sibling steps.

Source: MCTS-DPO (Xie et al. 2024, arXiv 2405.00451), by its abstract alone: a tree search turns rewards of whole
answers into signals of steps, from the outcome and an evaluation of each step by the model itself. What is ours:

1. The rule is UCT (Kocsis and Szepesvari 2006), mean + c sqrt(ln N / n), without the policy's probability as a
   prior: steps are drawn from the policy, so likely ones come up by themselves. Means are scaled to 0..1 by the
   least and the largest value in the tree, so that c means the same for every reward.
2. Where a descent ends, `width` answers are drawn on from there. Each opens a step, the first of what was drawn,
   and the whole answer is that step's first value: one draw for the step and for its completion. Equal draws are
   one step that was visited more often.
3. At the last level nothing is opened; drawing on adds completions to the step's value.
4. A step that ends the answer is never visited again: its value is known.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from visalign.data.pair_selection import Candidate, PairCounts, best_worst, keep
from visalign.errors import UserError
from visalign.media.words import sentence_ends


@dataclass(frozen=True)
class Draw:
    """An answer that was drawn on from a node. step: the first step of what followed; last: whether nothing
    follows it; ended: whether the answer ends with it by itself; worth: what the step itself is worth, beside the
    outcome of the whole answer."""

    step: str
    last: bool
    ended: bool
    outcome: float
    worth: float = 0.0


@dataclass(eq=False)
class Node:
    """The answer up to the end of a step (of the root: nothing yet). total: sum of the values of its visits."""

    prefix: str = ""
    step: str = ""
    depth: int = 0
    last: bool = False
    ended: bool = False
    worth: float = 0.0
    parent: "Node | None" = None
    visits: int = 0
    total: float = 0.0
    children: list["Node"] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Q of the step: the mean value of the answers that go on from it."""
        return self.total / self.visits

    @property
    def closed(self) -> bool:
        """Whether nothing can be learnt by drawing on from here."""
        return self.last or (bool(self.children) and all(child.closed for child in self.children))


def uct(mean: float, visits: int, parent_visits: int, exploration: float) -> float:
    """Upper confidence bound of a child: mean + c sqrt(ln N / n), for means in 0..1."""
    return mean + exploration * math.sqrt(math.log(parent_visits) / visits)


class Tree:
    """The tree of one prompt. depth: levels of steps; exploration: c of UCT."""

    def __init__(self, depth: int, exploration: float):
        self.depth, self.exploration = depth, exploration
        self.root = Node()
        self.least, self.most = math.inf, -math.inf

    def select(self) -> Node | None:
        """Where to draw on: from the root the child of the largest bound, down to a node without children; the
        earlier one of equals. None where nothing is open."""
        node = self.root
        if node.closed:
            return None
        while node.children:
            bounds = [(uct(self.scaled(child.mean), child.visits, node.visits, self.exploration), child)
                      for child in node.children if not child.closed]
            node = max(bounds, key=lambda bound: bound[0])[1]
        return node

    def scaled(self, value: float) -> float:
        """A value as a share of the way from the least to the largest of this tree; 0 while all are the same."""
        return (value - self.least) / (self.most - self.least) if self.most > self.least else 0.0

    def grow(self, node: Node, draws: list[Draw]) -> None:
        """Open the steps that were drawn on from a node, and back up what the answers were worth. A draw that adds
        no text and does not end is no step; it counts for the node, as do all draws at the last level."""
        for draw in draws:
            if node.depth == self.depth or not (draw.step or draw.ended):
                self._back_up(node, draw.outcome + node.worth)
                continue
            self._back_up(self._child(node, draw), draw.outcome + draw.worth)

    def _child(self, node: Node, draw: Draw) -> Node:
        known = next((child for child in node.children
                      if (child.step, child.last) == (draw.step, draw.last)), None)
        if known is None:
            known = Node(node.prefix + draw.step, draw.step, node.depth + 1, draw.last, draw.ended, draw.worth,
                         node)
            node.children.append(known)
        return known

    def _back_up(self, node: Node | None, value: float) -> None:
        self.least, self.most = min(self.least, value), max(self.most, value)
        while node is not None:
            node.visits, node.total = node.visits + 1, node.total + value
            node = node.parent

    def opened(self, node: Node | None = None) -> Iterator[Node]:
        """All nodes with children, a parent before them."""
        node = node or self.root
        if node.children:
            yield node
        for child in node.children:
            yield from self.opened(child)

    def pairs(self, counts: PairCounts, min_gap: float = 0.0, min_visits: int = 1) -> list[tuple[Node, Node, Node]]:
        """(prefix, best, worst): of each prefix the step of the highest and that of the lowest Q, where these
        differ by more than `min_gap` and rest on `min_visits` answers each; steps of equal texts, one of which
        ends the answer, are no pair."""
        found = []
        for node in self.opened():
            steps = [child for child in node.children if child.visits >= min_visits]
            chosen = keep(best_worst([Candidate(i, child.mean) for i, child in enumerate(steps)]), counts, min_gap)
            found += [(node, steps[a.number], steps[b.number]) for a, b in chosen]
        return [each for each in found if each[1].step != each[2].step]


def first_step(tokenizer: Any, text: str, step: int | str) -> str:
    """The first step of a text, without spaces at its end: a sentence or line that holds a letter (so that no
    number of a list is one), or so many tokens and the rest of their word. All of the text where it has one
    step."""
    text = text.rstrip()
    for end in _sentence_ends(text) if step == "sentence" else _token_ends(tokenizer, text, int(step)):
        if text[:end].strip() and end < len(text):
            return text[:end].rstrip()
    return text


def _sentence_ends(text: str) -> Iterator[int]:
    return (end for end in sentence_ends(text) if any(map(str.isalpha, text[:end])))


def _token_ends(tokenizer: Any, text: str, count: int) -> Iterator[int]:
    if not tokenizer.is_fast:
        raise UserError(f"data.feedback.tree.step {count}: this model's tokenizer does not say where its tokens "
                        "lie in a text; take data.feedback.tree.step=sentence")
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]

    def inside_word(end: int) -> bool:  # of letters that a tokenizer joins to words; others have no spaces between
        around = text[end - 1:end + 1]
        return around.isascii() and around.isalnum() and len(around) == 2

    return (end for _, end in places[count - 1:] if not inside_word(end))
