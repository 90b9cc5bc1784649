"""What is measured on held-out prompts, on numbers worked out by hand."""

import pytest
import torch

from visalign.language.adapter_measures import (
    BASE,
    OURS,
    RAW,
    HeldOutRenders,
    gain_of,
    held_out_rows,
    measures_of,
    verdict_on,
)
from visalign.language.rewriting import Rewritten
from visalign.reports.adapting import interval_in_words, table_in_words, write_adapt_page

NAN = float("nan")


class SameMeaning:
    def similarities(self, pairs):
        return [1.0 if a == b else 0.5 for a, b in pairs]


@pytest.fixture
def held():
    """Two prompts, two seeds, rewards a (weight 2) and b (weight 0). Ours gains 1 on each render; raw's best of two is
    1 above its mean."""
    raw = torch.tensor([[[0.0, 5.0], [2.0, 1.0]], [[3.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    ours = raw + torch.tensor([1.0, 0.0], dtype=torch.float64)
    base = raw.clone()
    base[1, 0, 0] = NAN
    texts = {RAW: [Rewritten(p, p, p, None) for p in ("one two", "three")],
             BASE: [Rewritten("one two", "one two", "<b>", "tags"), Rewritten("three", "three", "", "empty")],
             OURS: [Rewritten("one two", "one", "one", None), Rewritten("three", "three", "x", "another meaning")]}
    same = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]] * 2)
    return HeldOutRenders(("one two", "three"), texts, {RAW: raw, BASE: base, OURS: ours},
                          torch.tensor([2.0, 0.0], dtype=torch.float64), ("a", "b"),
                          {RAW: same, BASE: same, OURS: torch.ones(2, 2, 2)})


def test_gains_over_the_prompt_the_base_and_the_best_of_two(held):
    """a: raw means 1 and 2, ours 2 and 3, base 1 and 1 (one of its renders has no score). Best of two of raw: 2 and 3;
    of ours: 3 and 4. One of ours against the best of two of raw: 2 - 2 and 3 - 3."""
    found = measures_of(held, SameMeaning())
    assert found["rewards"] == ["a", "b"] and found["unscored"] == 1
    assert [own["a"][0] for own in found["rows"].values()] == [1.5, 2.5, 1.0, 2.5, 3.5]
    gains = [(gain["renders"], gain["rewards"]["a"]["gain"][0], gain["rewards"]["a"]["word"])
             for gain in found["gains"]]
    assert gains == [("same renders", 1.0, "better"), ("same renders", 1.5, "better"),
                     ("equal renders: best of 2 on both sides", 1.0, "better"),
                     ("which takes 2 times the renders", 0.0, "undecided")]
    assert found["rows"][f"best of 2 seeds, {RAW}"]["b"][0] == 0.5  # b of the renders that a chose: 1 and 0


def test_what_rewriting_costs(held):
    """Of two and one words ours leaves out one; one of two fell back; its two renders are alike, so no kind of image
    is left beyond the first, where there was one."""
    texts = measures_of(held, SameMeaning())["texts"]
    assert texts[RAW]["words"][0] == 1.5 and texts[OURS]["words"][0] == 1.0
    assert texts[OURS]["similarity"][0] == 0.75 and texts[RAW]["fell_back"] == 0
    assert texts[OURS]["fallbacks"] == {"another meaning": 1} and texts[BASE]["fell_back"] == 2
    assert texts[RAW]["diversity"][0] == pytest.approx(1) and texts[OURS]["diversity_change"][0] == pytest.approx(-1)


def test_prompts_without_a_score_on_either_side_are_left_out():
    gain = gain_of(torch.tensor([1.0, NAN, 4.0]).numpy(), torch.tensor([0.0, 5.0, 2.0]).numpy())
    assert gain.value == 1.5 and gain_of(torch.tensor([NAN]).numpy(), torch.tensor([1.0]).numpy()) is None
    assert verdict_on(None) == "unknown" and verdict_on(-gain) == "worse" if gain.low > 0 else "undecided"


def test_rows_and_page_hold_what_was_written_escaped(held, tmp_path):
    from PIL import Image

    rows = held_out_rows(held)
    assert rows[3] == {"prompt": "three", "used": "three", "written": "", "refused": "empty", "kind": BASE,
                       "scores": {"a": [None, 1.0], "b": [0.0, 0.0]}}
    found = measures_of(held, SameMeaning()) | {"renders": {"learning": 1, "held out": 2}}
    assert "  gain over the user's prompt (same renders): +1.000 [+1.000, +1.000] better" in table_in_words(found)
    cell = {"kind": BASE, "text": "<i>", "media": Image.new("RGB", (4, 4)), "refused": "tags", "written": "<b>"}
    page = write_adapt_page(tmp_path, {"a": 1}, found, {"dpo": {"pairs": 3, "best by": {"llm": 2}}},
                            [{"prompt": "<script>", "cells": [cell]}]).read_text()
    assert "<b>" not in page.replace("<b>{", "") or "&lt;b&gt;" in page
    assert "<i>" not in page and "fell back: tags" in page and "dpo: best by<td>llm 2" in page


def test_intervals_in_words():
    assert interval_in_words([0.4371, 0.3, 0.5649]) == "+0.437 [+0.300, +0.565]"
    assert interval_in_words([0.4, None, None]) == "+0.400" and interval_in_words(None) == "unknown"
