"""Which generations of several models are compared."""

from pathlib import Path

import pytest

from visalign.data.generations import Entry
from visalign.errors import UserError
from visalign.evaluation.matching import match


def entries(table: dict[str, list]) -> list[Entry]:
    return [Entry(f"{prompt}-{i}", Path(f"{prompt}-{i}.png"), prompt, seed)
            for prompt, seeds in table.items() for i, seed in enumerate(seeds)]


def test_equal_sets_are_kept_whole_in_the_order_of_seeds():
    found = match({"base": entries({"a": [2, 1], "b": [1, 2]}), "new": entries({"b": [1, 2], "a": [1, 2]})})
    assert found.prompts == ["a", "b"] and found.seeds == 2 and found.notes == ()
    for rows in found.entries.values():
        assert [[entry.seed for entry in row] for row in rows] == [[1, 2], [1, 2]]


def test_missing_seeds_and_prompts_are_left_out_and_counted():
    found = match({"base": entries({"a": [1, 2, 3], "b": [1, 2, 3], "c": [1]}),
                   "new": entries({"a": [3, 1], "b": [1, 2, 3]})})
    assert found.prompts == ["a", "b"] and found.seeds == 2
    assert [entry.seed for entry in found.entries["new"][0]] == [1, 3]
    assert "1 of 3 prompts were left out" in found.notes[0]
    assert "3 generations were left out" in found.notes[1]  # base's a-2, and the third seed of b in both


def test_unknown_seeds_are_matched_in_order_with_a_note():
    found = match({"base": entries({"a": [None, None]}), "new": entries({"a": [1, 2]})})
    assert found.seeds == 2 and "matched in the order of their names" in found.notes[0]
    assert match({"base": entries({"a": [None, None]})}).notes == ()


def test_one_generation_of_each_prompt_is_noted():
    assert "diversity within a prompt is undefined" in match({"base": entries({"a": [1], "b": [1]})}).notes[0]


def test_nothing_in_common_and_missing_prompts_are_refused():
    with pytest.raises(UserError, match="share no prompt.*base has 'a'; new has 'b'"):
        match({"base": entries({"a": [1]}), "new": entries({"b": [1]})})
    with pytest.raises(UserError, match="new: -0 has no prompt"):
        match({"base": entries({"a": [1]}), "new": entries({"": [1]})})


def test_one_short_prompt_costs_itself_and_not_the_generations_of_all_others():
    full = {f"p{i}": [1, 2, 3, 4] for i in range(5)}
    found = match({"base": entries(full | {"short": [1, 2, 3, 4]}), "new": entries(full | {"short": [1]})})
    assert found.seeds == 4 and "short" not in found.prompts
    assert "1 of 6 prompts were left out, since fewer than 4" in found.notes[0] and "'short'" in found.notes[0]


def test_as_many_generations_as_can_be_and_never_more_than_half_of_the_prompts_are_lost():
    counts = {"a": list(range(16)), "b": list(range(15)), "c": list(range(15))}
    assert match({"base": entries(counts), "new": entries(counts)}).seeds == 15
    counts = {"a": list(range(16)), "b": [0], "c": [0]}
    assert match({"base": entries(counts), "new": entries(counts)}).seeds == 1
