"""Snapshots of the policy: what stands in, what is put back, and what a checkpoint keeps."""

import pytest
import torch

from visalign.trainers.checkpoint import TrainingState
from visalign.trainers.online.old_policy import OldPolicy
from visalign.trainers.snapshots import Snapshot, Snapshots


def parameters(dtype=torch.float32):
    rng = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(shape, generator=rng).to(dtype)) for shape in ((4, 3), (5,))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_snapshot_stands_in_and_the_policy_comes_back_to_the_bit(dtype):
    policy = parameters(dtype)
    snapshot, then = Snapshot(policy), [p.detach().clone() for p in policy]
    with torch.no_grad():
        for p in policy:
            p.add_(0.123)
    now = [p.detach().clone() for p in policy]
    with pytest.raises(RuntimeError, match="inside"), snapshot.active():
        assert all(map(torch.equal, policy, then))
        raise RuntimeError("inside")
    assert all(map(torch.equal, policy, now))
    assert snapshot.distance() == pytest.approx(0.123, rel=0.02)


def test_the_old_policy_is_a_snapshot_that_moves():
    policy = parameters()
    old, then = OldPolicy(policy), policy[1].detach().clone()
    with torch.no_grad():
        policy[1].add_(1.0)
    old.follow(0.75)  # a quarter of the way
    with old.active():
        torch.testing.assert_close(policy[1].detach(), then + 0.25)


def test_only_the_last_are_kept_and_each_is_drawn_as_often():
    policy = parameters()
    pool = Snapshots(policy, keep=3)
    for number in range(5):
        with torch.no_grad():
            policy[1].fill_(number)
        pool.take(number)
    assert list(pool.taken) == [2, 3, 4] and len(pool) == 3
    rng = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(600):
        number, snapshot = pool.draw(rng)
        assert (snapshot.values[1] == number).all()
        drawn.append(number)
    assert all(drawn.count(number) == pytest.approx(200, abs=50) for number in pool.taken)


def test_a_checkpoint_keeps_them_to_the_bit(tmp_path):
    def state():
        policy = parameters()
        optimizer = torch.optim.AdamW(policy, lr=0.1)
        pool = Snapshots(policy, keep=2)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        return policy, pool, TrainingState([("a", policy[0]), ("b", policy[1])], optimizer, schedule, None,
                                           extras={"snapshots": pool})

    policy, pool, saved = state()
    for number in (30, 60):
        pool.take(number)
        with torch.no_grad():
            policy[0].mul_(1.1)
    saved.write(tmp_path)
    _, found, restored = state()
    found.take(7)  # whatever was there before goes
    restored.extras["snapshots"].load_state_dict(
        torch.load(tmp_path / "optimizer.pt", weights_only=True)["extras"]["snapshots"])
    assert list(found.taken) == [30, 60]
    for number in found.taken:
        assert all(map(torch.equal, found.taken[number].values, pool.taken[number].values))
