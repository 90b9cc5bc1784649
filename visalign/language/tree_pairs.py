"""Pairs of steps from search trees (tree_search.py), which grow together: a batch holds draws of many prompts.

A simulation descends every tree once and draws on from where it ends, `width` times each. A draw's seed is of its
prompt, its simulation and its place, so that neither the size of batches nor the number of processes changes it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from visalign.config import TextFeedbackSettings
from visalign.config.language_answers import AnswerSettings
from visalign.config.language_search import TreeSettings
from visalign.data.pair_selection import PairCounts
from visalign.data.text_pairs import TextPair
from visalign.errors import UserError, notice
from visalign.language.sampling import Answerer, continuations_of, drawing
from visalign.language.tree_search import Draw, Node, Tree, first_step
from visalign.media.answers import Answer
from visalign.media.conversations import Message
from visalign.media.samples import Sample
from visalign.parallel.sharing import Processes
from visalign.rewards import Reward, scores_of
from visalign.sampling.seeds import place_seed


@dataclass(frozen=True)
class DrawRequest:
    """One draw: the prompt's place, the node it goes on from, and its seed."""

    prompt: int
    node: Node
    seed: int


def tree_pairs(answerer: Answerer, prompts: Sequence[str], settings: TextFeedbackSettings,
               rewards: Sequence[Reward], seed: int, processes: Processes) -> list[TextPair]:
    """Best against worst step of each prefix in the prompts' trees, by the first reward of the whole answers and
    the second, where there is one, of the answers up to the step. Raises UserError when no steps differ."""
    assert settings.tree is not None
    trees = grown_trees(answerer, prompts, settings, settings.tree, rewards, seed, processes)
    counts = PairCounts()
    pairs = [pair_of_steps(prompt, *found) for prompt, tree in zip(prompts, trees, strict=True)
             for found in tree.pairs(counts, settings.min_gap, settings.tree.min_visits)]
    prefixes = sum(1 for tree in trees for _ in tree.opened())
    if not pairs:
        raise UserError(f"data.feedback.tree: reward {rewards[0].name} tells no two steps after one beginning apart, "
                        f"in {prefixes} beginnings of answers to {len(prompts)} prompts; take more width or "
                        "simulations, a shorter step, a higher temperature, or a smaller min_gap")
    notice(f"data.feedback.tree: {len(pairs)} pairs of steps after {prefixes} beginnings of answers to "
           f"{len(prompts)} prompts, {sum(pair.prefix != '' for pair in pairs)} of them inside an answer")
    return pairs


def pair_of_steps(prompt: str, before: Node, best: Node, worst: Node) -> TextPair:
    """Two steps that follow one prefix; only a step that ends its answer teaches to end there."""
    return TextPair(({"role": "user", "content": prompt},), best.step, worst.step, f"prompt '{prompt}'",
                    best.mean - worst.mean, 1.0, best.mean, worst.mean, prefix=before.prefix,
                    unfinished=frozenset(side for side, node in (("chosen", best), ("rejected", worst))
                                         if not node.ended))


def grown_trees(answerer: Answerer, prompts: Sequence[str], settings: AnswerSettings, tree: TreeSettings,
                rewards: Sequence[Reward], seed: int, processes: Processes) -> list[Tree]:
    """The trees of all prompts after all simulations; a tree in which nothing is open any more is complete."""
    width = tree.width
    trees = [Tree(tree.depth, tree.exploration) for _ in prompts]
    with tqdm(total=len(prompts) * tree.simulations * width, desc="trees of steps", unit="answer",
              disable=not processes.is_first) as progress:
        for number in range(tree.simulations):
            leaves = [(i, node) for i, each in enumerate(trees) if (node := each.select()) is not None]
            asked = [DrawRequest(i, node, place_seed(seed, (i * tree.simulations + number) * width + j))
                     for i, node in leaves for j in range(width)]
            if not asked:
                break
            drawn = drawn_on(answerer, prompts, asked, settings, processes, progress)
            draws = valued(answerer, prompts, asked, drawn, tree, rewards, processes)
            for place, (i, node) in enumerate(leaves):
                own = draws[place * width:(place + 1) * width]
                trees[i].grow(node, [each for each in own if each is not None])
        progress.update(progress.total - progress.n)
    return trees


def drawn_on(answerer: Answerer, prompts: Sequence[str], asked: Sequence[DrawRequest], settings: AnswerSettings,
             processes: Processes, progress: tqdm) -> list[tuple[str, bool]]:
    """What follows each beginning, and whether the answer ended by itself; processes share the batches."""
    def answered(batch: Sequence[DrawRequest]) -> list[tuple[str, bool]]:
        talks: list[tuple[Message, ...]] = [({"role": "user", "content": prompts[each.prompt]},) for each in batch]
        with drawing(answerer.model):
            found = continuations_of(answerer, talks, [each.node.prefix for each in batch],
                                     [each.seed for each in batch], settings)
        progress.update(min(len(batch) * processes.world, progress.total - progress.n))
        return found

    size = settings.batch_size
    batches = [asked[start:start + size] for start in range(0, len(asked), size)]
    return [each for batch in processes.share(batches, answered) for each in batch]


def valued(answerer: Answerer, prompts: Sequence[str], asked: Sequence[DrawRequest],
           drawn: Sequence[tuple[str, bool]], tree: TreeSettings, rewards: Sequence[Reward],
           processes: Processes) -> list[Draw | None]:
    """What was drawn as steps, with the reward of each whole answer and what the step itself is worth; None for
    one that a reward cannot score, which is left out. Raises UserError when more than half are."""
    steps, whole, so_far = [], [], []
    for each, (text, ended) in zip(asked, drawn, strict=True):
        before, prompt = each.node.prefix, prompts[each.prompt]
        text = text.rstrip() if before else text.strip()
        step = first_step(answerer.tokenizer, text, tree.step)
        steps.append((step, step == text, ended and step == text))
        whole.append(Sample(prompt, Answer(before + text), each.seed, {"ended": ended}))
        so_far.append(Sample(prompt, Answer(before + step), each.seed, {"ended": ended and step == text}))
    scores = processes.told_by_first(lambda: [known_scores(reward, samples) for reward, samples in zip(
        rewards, (whole, so_far), strict=False)])
    worth = [tree.self_weight * score for score in scores[1]] if len(scores) > 1 else [0.0] * len(steps)
    return [Draw(*step, outcome, own) if math.isfinite(outcome + own) else None
            for step, outcome, own in zip(steps, scores[0], worth, strict=True)]


def known_scores(reward: Reward, samples: list[Sample]) -> list[float]:
    """Larger is better, NaN where there is no score. Raises UserError when more than half have none."""
    scores, reasons = scores_of(reward, samples)
    if len(reasons) > len(samples) / 2:
        raise UserError(f"data.feedback.tree: reward {reward.name} has no score for {len(reasons)} of "
                        f"{len(samples)} answers ({next(iter(reasons.values()))}), more than half")
    if reasons:
        notice(f"data.feedback.tree: reward {reward.name} has no score for some answers; they are left out")
    return scores.tolist()
