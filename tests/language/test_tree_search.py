"""Trees by hand: bounds, visits and means, what is open, pairs of siblings, and where steps end."""

import math

import pytest

from tests.tiny.languages import tiny_tokenizer
from visalign.data.pair_selection import PairCounts
from visalign.language.tree_search import Draw, Tree, first_step, uct


def draw(step, outcome, last=False, worth=0.0):
    return Draw(step, last, last, outcome, worth)


def test_the_bound_is_mean_plus_c_root_of_ln_parent_over_own_visits():
    """N 4, n 1 and 2: ln 4 = 1.386294; sqrt 1.177410 and 0.832555."""
    assert uct(0.5, 1, 4, 1.0) == pytest.approx(1.677410, abs=1e-6)
    assert uct(0.5, 2, 4, 2.0) == pytest.approx(0.5 + 2 * 0.832555, abs=1e-6)
    assert uct(0.5, 7, 1, 3.0) == 0.5


def test_values_are_backed_up_to_the_root_and_a_descent_follows_the_largest_bound():
    """Values 1, 3 under the root: scaled 0 and 1, so b is descended; its steps are worth 0 and 0, which leaves b's
    mean at 3/3 = 1 and a's at 1, now of the scale 0..3, and a, visited once of four, has the larger bound."""
    tree = Tree(depth=3, exploration=1.0)
    assert tree.select() is tree.root
    tree.grow(tree.root, [draw("a", 1.0), draw("b", 3.0)])
    a, b = tree.root.children
    assert (tree.root.visits, tree.root.mean, tree.select()) == (2, 2.0, b)
    tree.grow(b, [draw(" c", 0.0), draw(" d", 0.0)])
    assert (b.visits, b.mean, tree.root.visits, tree.root.mean) == (3, 1.0, 4, 1.0)
    assert b.children[0].prefix == "b c" and (tree.least, tree.most) == (0.0, 3.0)
    assert tree.scaled(a.mean) == tree.scaled(b.mean) == pytest.approx(1 / 3) and tree.select() is a


def test_without_exploration_the_best_step_is_followed():
    tree = Tree(depth=3, exploration=0.0)
    tree.grow(tree.root, [draw("a", 1.0), draw("b", 3.0), draw("b", 2.0)])
    assert [(child.step, child.visits, child.mean) for child in tree.root.children] == [("a", 1, 1.0), ("b", 2, 2.5)]
    assert tree.select().step == "b"


def test_a_step_that_ends_the_answer_is_not_visited_again_and_a_tree_can_be_complete():
    tree = Tree(depth=3, exploration=0.0)
    tree.grow(tree.root, [draw("a", 9.0, last=True), draw("b", 0.0)])
    assert tree.select().step == "b"
    tree.grow(tree.select(), [draw("", 1.0, last=True), draw(" c", 1.0, last=True)])
    assert tree.select() is None and tree.root.closed


def test_the_last_level_gathers_completions_and_opens_no_steps():
    """A step worth 0.5 by itself: its answers 1 and 3 come to (1 + 3) / 2 + 0.5 = 2.5."""
    tree = Tree(depth=1, exploration=1.0)
    tree.grow(tree.root, [draw("a", 1.0, worth=0.5)])
    node = tree.select()
    assert node.step == "a"
    tree.grow(node, [draw(" b", 3.0, worth=9.0)])
    assert (node.children, node.visits, node.mean, tree.root.mean) == ([], 2, 2.5, 2.5) and tree.select() is node


def test_what_was_cut_before_it_said_anything_is_no_step():
    tree = Tree(depth=3, exploration=1.0)
    tree.grow(tree.root, [Draw("", True, False, 4.0)])
    assert not tree.root.children and tree.root.mean == 4.0


def test_pairs_are_best_and_worst_siblings_that_differ_enough():
    tree, counts = Tree(depth=3, exploration=1.0), PairCounts()
    tree.grow(tree.root, [draw("a", 1.0), draw("b", 0.5), draw("c", 0.0)])
    tree.grow(tree.root.children[0], [draw(" d", 1.0), draw(" d", 1.1), draw(" e", 1.0)])
    found = [(best.step, worst.step, before.prefix) for before, best, worst in tree.pairs(counts, 0.1)]
    assert found == [("a", "c", "")] and (counts.kept, counts.ties) == (1, 1)
    assert [(best.step, worst.step, before.prefix) for before, best, worst in tree.pairs(PairCounts())] == [
        ("a", "c", ""), (" d", " e", "a")]
    assert tree.root.children[0].mean == pytest.approx((1 + 1 + 1.1 + 1) / 4)
    assert tree.pairs(PairCounts(), min_visits=2) == []


def test_going_on_against_ending_after_equal_words_is_no_pair():
    tree = Tree(depth=3, exploration=1.0)
    tree.grow(tree.root, [draw("a", 1.0, last=True), draw("a", 0.0)])
    assert len(tree.root.children) == 2 and tree.pairs(PairCounts()) == []


@pytest.mark.parametrize(("text", "first"), [
    ("Rain is water. It falls.", "Rain is water."), (" It falls.  Then it dries.", " It falls."),
    ("Rain is 3.5 mm. More.", "Rain is 3.5 mm."), ('He said "no." Then he went.', 'He said "no."'),
    ("A line\nand another", "A line"), ("1. Rain falls. 2. Snow", "1. Rain falls."), ("one sentence", "one sentence"),
    ("All of it. \n", "All of it."), ("", ""), ("\u96e8\u3067\u3059\u3002\u96ea", "\u96e8\u3067\u3059\u3002")])
def test_a_sentence_is_a_step(text, first):
    assert first_step(None, text, "sentence") == first


def test_tokens_are_a_step_with_the_rest_of_their_word():
    tokenizer = tiny_tokenizer()
    text = " rain is zzzz and salt"
    assert [len(tokenizer(word)["input_ids"]) for word in (" rain", " is", " zzzz")] == [1, 1, 5]
    assert first_step(tokenizer, text, 1) == " rain" and first_step(tokenizer, text, 2) == " rain is"
    assert first_step(tokenizer, text, 4) == " rain is zzzz" and first_step(tokenizer, text, 40) == text
    assert first_step(tokenizer, "\u96e8\u3067\u3059", 1) == "\u96e8"  # of which no token is cut in two


def test_exploration_visits_what_was_seldom_seen():
    """Means 0 and 1, both visited once: with c = 1 the better one; after ten more visits of it the other, whose
    bound is sqrt(ln 12) = 1.576 against 1 + sqrt(ln 12 / 11) = 1.475."""
    tree = Tree(depth=1, exploration=1.0)
    tree.grow(tree.root, [draw("a", 0.0), draw("b", 1.0)])
    b = tree.select()
    tree.grow(b, [draw(" c", 1.0)] * 10)
    assert b.visits == 11 and math.sqrt(math.log(12)) > 1 + math.sqrt(math.log(12) / 11)
    assert tree.select().step == "a"
