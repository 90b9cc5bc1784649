"""Tables of dynamic labels, and how several doubts of one label add up."""

import pytest
import torch

from visalign.objectives.links import LabelTable, right_after_both


def test_labels_move_to_what_the_policy_believes():
    # m = -0.1625, s(m) = 0.459464: 0.9 + 0.0459464 = 0.945946; 0.9 * 0.945946 + 0.0459464 = 0.897298; 0.853515
    table, seen = LabelTable(0.1), []
    for _ in range(3):
        table.visited([7], torch.tensor([-0.1625]))
        seen.append(table.of([7]).item())
    assert seen == pytest.approx([0.945946, 0.897298, 0.853515], abs=1e-6)
    for _ in range(300):
        table.visited([7], torch.tensor([-0.1625]))
    assert table.of([7, 8]).tolist() == pytest.approx([0.459464, 1.0], abs=1e-6)


def test_a_table_continues_to_the_same_bits():
    first = LabelTable(0.3)
    first.visited([4, 1, 4], torch.tensor([0.3, -2.0, 1.0]))
    second = LabelTable(0.3)
    second.load_state_dict(first.state_dict())
    for table in (first, second):
        table.visited([1, 9], torch.tensor([0.1, 0.2]))
    assert first.labels == second.labels and list(first.labels) == [4, 1, 9]


def test_doubts_of_a_label_are_independent_flips():
    assert right_after_both(1.0, 0.7) == 0.7 and right_after_both(0.5, 0.7) == 0.5
    assert right_after_both(0.9, 0.8) == pytest.approx(0.74)  # 0.72 + 0.1 * 0.2
    assert right_after_both(0.0, 0.7) == pytest.approx(0.3)
