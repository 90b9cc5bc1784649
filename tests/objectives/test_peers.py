"""Members that choose the pairs of one another, at worked-out losses."""

import pytest
import torch

from visalign.objectives.peers import easy_for_peers, share_dropped
from visalign.objectives.reward_model import Comparison, RewardModelLoss

NAN = float("nan")
LOSSES = torch.tensor([[0.1, 2.0], [0.2, 0.1], [3.0, 0.3]])[..., None]  # of A and B, three pairs


def kept(losses, dropped, together=lambda rows: rows):
    return easy_for_peers(dropped, together)(losses).tolist()


def test_each_member_learns_from_the_two_pairs_easiest_for_the_other():
    # B's lowest two are the second and third, A's the first and second
    assert kept(LOSSES, 1 / 3) == [[0, 1], [1, 1], [1, 0]]


def test_of_three_members_each_is_chosen_for_by_the_next():
    third = torch.tensor([5.0, 6.0, 4.0])[:, None, None]
    weight = torch.tensor(kept(torch.cat([LOSSES, third], 1), 2 / 3))
    assert weight.argmax(0).tolist() == [1, 2, 0] and weight.sum(0).tolist() == [1, 1, 1]


def test_nothing_is_left_out_at_the_start_and_never_all():
    assert kept(LOSSES, 0.0) == [[1, 1]] * 3
    assert kept(LOSSES, 0.99) == [[0, 1], [1, 0], [0, 0]]


def test_missing_labels_neither_count_nor_fall():
    losses = torch.cat([LOSSES, torch.full_like(LOSSES, NAN)], 2)
    losses = torch.cat([losses, torch.full((5, 2, 2), NAN)])
    assert kept(losses, 1 / 3) == [[0, 1], [1, 1], [1, 0]] + [[1, 1]] * 5
    assert kept(torch.full((2, 2, 1), NAN), 0.5) == [[1, 1]] * 2


def test_the_share_is_of_the_pairs_of_all_processes():
    elsewhere = torch.tensor([[0.01, 0.01], [0.02, 0.02], [0.03, 0.03]])
    both = kept(LOSSES, 0.5, lambda rows: torch.cat([rows, elsewhere]))
    assert both == [[0, 0]] * 3  # three of six are kept, and all lie elsewhere


def test_the_share_rises_over_the_first_third():
    assert [share_dropped(0.3, done) for done in (0.0, 1 / 6, 1 / 3, 1.0)] == pytest.approx([0.0, 0.15, 0.3, 0.3])


def comparison(done):
    a, b = torch.randn(2, 6, 2, 1, generator=torch.Generator().manual_seed(1))
    nothing = torch.full((6, 1), NAN)
    return Comparison(a.requires_grad_(), b, torch.tensor([[1.0, 0, 1, 0, 1, 1]]).T, torch.ones(6), nothing, nothing,
                      done=done)


def gradient(done, **settings):
    batch = comparison(done)
    RewardModelLoss(**settings)(batch).loss.backward()
    return batch.a.grad


def test_without_a_share_members_are_independent_to_the_bit():
    plain = gradient(1.0)
    assert torch.equal(gradient(1.0, peer_filter=0.0), plain) and torch.equal(gradient(0.0, peer_filter=0.5), plain)
    filtered = gradient(1.0, peer_filter=0.5)
    assert ((filtered == 0).sum(0) == 3).all() and not torch.equal(filtered[:, 0] == 0, filtered[:, 1] == 0)


def test_one_member_has_no_peer():
    with pytest.raises(ValueError, match="at least 2 members"):
        easy_for_peers(0.3, lambda rows: rows)(LOSSES[:, :1])
