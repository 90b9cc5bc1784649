"""The simulated questions, on features that are respects themselves: active asking needs fewer of them than random."""

from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def simulate(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import simulate_questions

    return simulate_questions


def planted(drawings, respects, seed=0):
    """Noise, and one number a respect that says which side it is."""
    rng = torch.Generator().manual_seed(seed)
    base = torch.randn(drawings, 1, 12, generator=rng).repeat(1, respects, 1)
    push = 3 * torch.eye(respects, 12)
    return base + push, base - push


def test_questions_needed_are_those_after_which_a_voter_stays_known(simulate):
    accuracy = np.array([[0.95, 0.95, 0.95], [0.5, 0.95, 0.95], [0.5, 0.95, 0.5], [0.5, 0.5, 0.9]])
    assert simulate.needed(accuracy).tolist() == [0, 1, 3, 2]


def test_active_asking_needs_fewer_questions(simulate):
    sides = planted(24, 3)
    head = simulate.learnt_head(tuple(side[:12] for side in sides), steps=200, voters=8)
    found = simulate.curves(head, sides, repeats=4, questions=8)
    assert found["active"][:, 0].mean() == found["random"][:, 0].mean()  # nothing was asked
    count = {way: simulate.needed(each).mean() for way, each in found.items()}
    assert count["active"] < count["random"] - 0.5
    assert found["active"][:, 4].mean() > found["random"][:, 4].mean() and found["active"][:, -1].mean() > 0.9
