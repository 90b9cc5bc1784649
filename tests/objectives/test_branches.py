"""Advantages of edges of a tree of samples: hand numbers, and what they have in common with those of a group."""

import pytest
import torch

from visalign.objectives.branches import edge_advantages

NAN = float("nan")


def test_the_numbers_of_a_tree_of_four_leaves():
    found = edge_advantages(torch.tensor([0.0, 1.0, 2.0, 5.0]), 4, 2, eps=0.0, clip=5.0)
    # leaves (0, 1, 2, 5): mean 2, std sqrt(14/3) = 2.1602; nodes (0.5, 3.5): mean 2, std 3 / sqrt(2) = 2.1213
    assert found[:, 2].tolist() == pytest.approx([-0.926, -0.463, 0, 1.389], abs=5e-4)
    assert found[:, 1].tolist() == pytest.approx([-0.7071, -0.7071, 0.7071, 0.7071], abs=1e-4)
    assert found[:, 0].tolist() == [0] * 4  # the trunk has nobody to be compared with


def test_groups_and_trees_are_told_apart():
    rewards = torch.tensor([0.0, 2.0, 4.0, 6.0, 1.0, 1.0, 1.0, 1.0])  # two prompts of two trees of two leaves
    found = edge_advantages(rewards, 4, 1, eps=0.0, clip=5.0)
    assert found[:4, 0].tolist() == pytest.approx([-0.7071, -0.7071, 0.7071, 0.7071], abs=1e-4)  # trees: 1 and 5
    assert found[:4, 1].tolist() == pytest.approx([-1.1619, -0.3873, 0.3873, 1.1619], abs=1e-4)  # std sqrt(20/3)
    assert not found[4:].any()


def test_each_depth_sums_to_nothing_and_a_split_s_children_lie_around_their_parent():
    rewards = torch.randn(32, dtype=torch.float64)
    found = edge_advantages(rewards, 16, 3, eps=0.0, clip=100.0)
    assert found.view(2, 16, 4).sum(1).abs().max() < 1e-9
    # of nodes with the same std, a parent is the mean of its children: raw values, from advantages times their std
    for depth in (1, 2, 3):
        leaves = 2**(3 - depth)
        nodes, parents = rewards.view(-1, leaves).mean(1), rewards.view(-1, 2 * leaves).mean(1)
        torch.testing.assert_close(nodes.view(-1, 2).mean(1), parents)
        std, mean = nodes.view(2, -1).std(1), nodes.view(2, -1).mean(1)
        again = found[::leaves, depth].view(2, -1) * std[:, None] + mean[:, None]
        torch.testing.assert_close(again, nodes.view(2, -1))


def test_no_split_is_a_group_with_ddof_1():
    rewards = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert edge_advantages(rewards, 4, 0, 0.0, 5.0)[:, 0].tolist() == pytest.approx(
        [-0.9258, -0.4629, 0, 1.3887], abs=1e-4)


def test_a_leaf_without_a_reward_leaves_its_node_to_the_other():
    found = edge_advantages(torch.tensor([NAN, 1.0, 2.0, 4.0]), 4, 2, eps=0.0, clip=5.0)
    assert found[0].isnan().all()
    assert found[1:, 1].tolist() == pytest.approx([-0.7071, 0.7071, 0.7071], abs=1e-4)  # nodes 1 and 3
    assert found[1:, 2].tolist() == pytest.approx([-0.8729, -0.2182, 1.0911], abs=1e-4)  # 1, 2, 4
    nobody = edge_advantages(torch.tensor([NAN, NAN, 2.0, 4.0]), 4, 2, eps=0.0, clip=5.0)
    assert nobody[2:, 1].tolist() == [0, 0] and nobody[2:, 2].tolist() == pytest.approx([-0.7071, 0.7071], abs=1e-4)


def test_advantages_are_clipped():
    found = edge_advantages(torch.tensor([0.0, 1.0, 2.0, 5.0]), 4, 2, eps=0.0, clip=0.5)
    assert found.abs().max() == 0.5
