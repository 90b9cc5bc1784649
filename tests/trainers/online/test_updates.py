"""A probe's passes, on losses whose gradients are known: what ends in .grad, and what the balance learns."""

import copy
from types import SimpleNamespace

import pytest
import torch

from visalign.objectives.advantages import Advantages
from visalign.objectives.balance import Balance
from visalign.objectives.base import Outcome
from visalign.objectives.mixing import FixedWeights
from visalign.parallel.sharing import Processes
from visalign.trainers.online.updates import BalancedUpdate, PlainUpdate, update_for

PULL = torch.tensor([0.25, 0.5])


class OneProcess:
    processes = Processes()

    def reduce(self, parameters):
        pass


class Linear:
    """theta [2] and a sample a reward: the loss of advantages [n] is mean(A_i g_i . theta) + PULL . theta."""

    def __init__(self, *gradients, pulled=True):
        self.theta, self.unused = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
        self.gradients, self.pulled, self.passes = torch.tensor(gradients), pulled, []

    def learn(self, advantages, part=lambda outcome: outcome.loss, shown=True):
        self.passes.append(shown)
        held = (PULL * self.theta).sum()
        loss = (advantages.float() * (self.gradients @ self.theta)).mean()
        outcome = Outcome(loss + held, {}, held) if self.pulled else Outcome(loss, {})
        part(outcome).backward()
        return outcome.apart is not None

    def update(self, **settings):
        n = len(self.gradients)
        by_reward = torch.eye(n, dtype=torch.float64) * n  # so that pass k has the gradient g_k
        balance = Balance(n, **settings)
        update = BalancedUpdate(balance, tuple("abcdefgh"[:n]), [self.theta, self.unused], OneProcess())
        return balance, lambda: update(Advantages(by_reward.mean(1), torch.ones(n) > 0, torch.zeros(n) > 0, 0.0,
                                                  by_reward=by_reward), self.learn)


def test_rewards_that_disagree_both_gain():
    # directions at 120 degrees, cosine -.5: alpha (.5, .5), |d| = .5 of the mean length 2, gh_k . d = |d|^2 / mean
    world = Linear((1.0, 0.0), (-1.5, 1.5 * 3 ** 0.5))
    balance, update = world.update()
    row = update()
    d = world.theta.grad - PULL
    directions = world.gradients / world.gradients.norm(dim=1, keepdim=True)
    assert (directions[0] @ directions[1]).item() == pytest.approx(-0.5)
    gained = directions @ d
    assert gained.tolist() == pytest.approx([(d @ d).item() / 2] * 2, abs=1e-6) and d.norm().item() == pytest.approx(1)
    assert row == pytest.approx({
        "balance/a": 0.5, "balance/b": 0.5, "balance_probe/a": 0.5, "balance_probe/b": 0.5, "gradient_norm/a": 1.0,
        "gradient_norm/b": 3.0, "gradient_cosine/a": 0.5, "gradient_cosine/b": 0.5}, abs=1e-6)
    assert world.passes == [True, True, False]  # a pass a reward, and the pull's, which is not logged
    # the weighted sum would harm the first: g_1 . (g_1 + g_2) / 2 < 0
    assert world.gradients[0] @ world.gradients.mean(0) < 0


def test_between_probes_one_pass_learns_from_mixed_advantages():
    world = Linear((1.0, 0.0), (0.8, 0.6), (-1.0, 2.0), pulled=False)
    balance, update = world.update(every=2, decay=0.7)
    found = update()
    weights = torch.tensor([found[f"balance/{name}"] for name in "abc"])
    probe = torch.tensor([found[f"balance_probe/{name}"] for name in "abc"])
    torch.testing.assert_close(weights, 0.7 / 3 + 0.3 * probe)
    assert len(world.passes) == 3  # nothing is held apart
    world.theta.grad = None
    row = update()
    assert len(world.passes) == 4 and row.keys() == {"balance/a", "balance/b", "balance/c"}
    torch.testing.assert_close(world.theta.grad, weights @ world.gradients)
    update()
    assert len(world.passes) == 7


def test_what_no_pass_reaches_has_no_gradient_and_zeros_have_one():
    world = Linear((0.0, 0.0), (0.0, 0.0), pulled=False)
    update = world.update()[1]
    update()
    assert world.unused.grad is None and world.theta.grad.tolist() == [0, 0]


def test_a_gradient_that_is_not_finite_teaches_no_weights():
    world = Linear((float("inf"), 0.0), (0.0, 1.0))
    balance, update = world.update()
    row = update()
    assert balance.weights.tolist() == [0.5, 0.5] and "balance_probe/a" not in row
    assert not world.theta.grad.isfinite().all()


def test_gradients_of_processes_count_once():
    class Second(OneProcess):
        processes = SimpleNamespace(is_first=False, most=lambda number: number)

    world = Linear((1.0, 0.0), (0.0, 1.0))
    balance, _ = world.update()
    by_reward = torch.eye(2, dtype=torch.float64) * 2
    update = BalancedUpdate(copy.copy(balance), ("a", "b"), [world.theta], Second())
    update(Advantages(by_reward.mean(1), torch.ones(2) > 0, torch.zeros(2) > 0, 0.0, by_reward=by_reward), world.learn)
    assert world.theta.grad.tolist() == [0, 0]  # the first process has it all


def test_fixed_weights_learn_in_one_pass():
    update, seen = update_for(FixedWeights(torch.ones(2)), ("a", "b"), [], OneProcess()), []
    found = Advantages(torch.ones(3), torch.ones(3) > 0, torch.zeros(3) > 0, 0.0)
    assert isinstance(update, PlainUpdate) and update(found, seen.append) == {} and torch.equal(seen[0], torch.ones(3))
