"""POWER-DL: numbers worked out by hand on the pair of pair_t.py."""

import pytest
import torch

from tests.objectives.pair_t import logs, tensor
from visalign.objectives.language_pairs import PowerDL, SimPO
from visalign.objectives.links import LabelTable


def test_hand_worked_loss():
    # m = 0.1 [-12/4 + 10/8 + 1/4 - 1/8] = -0.1625; -log s(m) = 0.777694; - 0.01 * 0.1 * (-12/4) = + 0.003
    outcome = PowerDL(beta=0.1, eta=0.01)(logs())
    assert outcome.metrics["margin"].item() == pytest.approx(-0.1625)
    assert outcome.loss.item() == pytest.approx(0.780694, abs=2e-6)
    assert "reference" not in PowerDL().needs


def test_the_label_of_the_table_softens_the_loss():
    # l = 0.945946: 0.777694 + 0.054054 * m, since -log s(-m) = -log s(m) + m
    outcome = PowerDL(beta=0.1, eta=0.0)(logs(label=tensor(0.945946)))
    assert outcome.loss.item() == pytest.approx(0.777694 - 0.054054 * 0.1625, abs=2e-6)


def test_a_table_follows_its_metrics():
    table, method = LabelTable(0.1), PowerDL(beta=0.1, eta=0.01)
    for expected in (1.0, 0.945946, 0.897298, 0.853515):
        label = table.of([3])
        assert label.item() == pytest.approx(expected, abs=1e-6)
        table.visited([3], method(logs(label=label)).metrics["margin"])


def test_with_nothing_added_and_equal_lengths_it_is_simpo():
    pair = logs(rejected_tokens=tensor(4))
    plain = PowerDL(beta=2.0, eta=0.0, dynamic_labels=0.0)(pair)
    assert plain.loss.item() == pytest.approx(SimPO(beta=2.0, gamma=0.0)(pair).loss.item(), abs=1e-6)


def test_labels_of_flipped_pairs_fall_below_the_others():
    # eight pairs, every fourth flipped: the policy learns the common direction, the flipped labels fall
    direction, table = torch.zeros(8, requires_grad=True), LabelTable(0.05)
    flipped = torch.tensor([i % 4 == 0 for i in range(8)])
    features = torch.where(flipped, -1.0, 1.0)[:, None] * (1 + 0.1 * torch.eye(8))
    method, four = PowerDL(beta=2.0, eta=0.0, dynamic_labels=0.05), torch.full((8,), 4.0)
    for _ in range(100):
        change = features @ direction
        pair = logs(chosen=-12 + change, rejected=-12 - change, chosen_tokens=four, rejected_tokens=four,
                    label=table.of(list(range(8))))
        outcome = method(pair)
        table.visited(list(range(8)), outcome.metrics["margin"])
        direction = (direction - torch.autograd.grad(outcome.loss, direction)[0]).detach().requires_grad_()
    labels = table.of(list(range(8)))
    assert labels[flipped].max() < 0.4 and labels[~flipped].min() > 0.6
