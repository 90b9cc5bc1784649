"""The page of distances: the tree's order, the matrix in that order, names as text."""

import re

import numpy as np

from visalign.evaluators.reward_distance import reward_distances
from visalign.reports.reward_distance import rewards_in_order, write_reward_distances


def test_likenesses_stand_together_and_names_are_escaped(tmp_path):
    rng = np.random.default_rng(0)
    a, c = rng.normal(size=(2, 40))
    found = reward_distances({"a": a, "c": c, "<b>": a + 0.1 * rng.normal(size=40), "d_$x": c + rng.normal(size=40)},
                            np.repeat(np.arange(10), 4))
    order = rewards_in_order(found)
    assert abs(order.index("a") - order.index("<b>")) == 1 and abs(order.index("c") - order.index("d_$x")) == 1
    write_reward_distances(tmp_path / "page.html", found, "mine & others")
    page = (tmp_path / "page.html").read_text()
    assert "40 samples of 10 prompts of mine &amp; others." in page and "&lt;b&gt;" in page and "<td><b>" not in page
    assert page.count("<svg") == 1 and "d_$x" in page
    values = [float(each) for each in re.findall(r'class="number" style=[^>]*>([\d.]+)', page)]
    assert values == [round(found.of(one, other).value, 3) for one in order for other in order]
