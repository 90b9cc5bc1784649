"""The simulated questions, with a reader of answers that makes no mistake: asking for what tells most needs fewer."""

import numpy as np
import pytest
import torch

RESPECTS, MARGIN = 2, 4.0


@pytest.fixture
def simulate():
    import simulate_questions

    return simulate_questions


def planted(drawings):
    """Features that say which respect differs, and on which side."""
    sign = torch.eye(RESPECTS).expand(drawings, -1, -1)
    return sign, -sign


class Bayes:
    """Knows that there are four kinds of voters, and how likely each is after what was answered."""

    kinds = torch.tensor([[2.0 * ((kind >> k) % 2) - 1 for k in range(RESPECTS)] for kind in range(2**RESPECTS)])

    def views(self, features, belief):
        return MARGIN / 2 * (self.kinds @ features[:, 0].T)[:, :, None, None], belief[:, None, None, None]

    def belief_at(self, place):
        return torch.full((len(self.kinds),), 1 / len(self.kinds))

    def belief_of(self, a, b, said):
        margin = self.views(a, self.belief_at(None))[0] - self.views(b, self.belief_at(None))[0]
        toward = (2 * said - 1)[None, :, :, None] * margin
        return torch.nn.functional.logsigmoid(toward).sum((1, 2, 3)).softmax(0)


def test_questions_needed_are_those_after_which_a_voter_stays_known(simulate):
    accuracy = np.array([[0.95, 0.95, 0.95], [0.5, 0.95, 0.95], [0.5, 0.95, 0.5], [0.5, 0.5, 0.9]])
    assert simulate.needed(accuracy).tolist() == [0, 1, 3, 2]


def test_asking_for_what_tells_most_needs_a_question_a_respect_and_random_ones_more(simulate):
    found = simulate.curves(Bayes(), planted(8), repeats=6, questions=8)
    assert len({round(float(each[:, 0].mean()), 6) for each in found.values()}) == 1  # nothing was asked
    count = {way: simulate.needed(each) for way, each in found.items()}
    assert all((count[way] == RESPECTS).all() for way in ("information", "variance"))  # of voters of all kinds
    assert count["random"].mean() > count["information"].mean() + 1


def test_a_head_learns_from_planted_voters_and_is_asked(simulate):
    sides = planted(6)
    head = simulate.learnt_head(tuple(side[:3] for side in sides), steps=3, voters=4)
    found = simulate.curves(head, sides, repeats=1, questions=2)
    assert {way: each.shape for way, each in found.items()} == {way: (4, 3) for way in simulate.WAYS}
