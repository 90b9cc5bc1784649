"""SparsePO and MaPO: numbers worked out by hand, and the methods that they contain."""

import math

import pytest
import torch

from tests.objectives.pair_t import logs
from visalign.errors import UserError
from visalign.objectives.language import PairLogs, TokenLogs
from visalign.objectives.language_pairs import LanguageDPO
from visalign.objectives.sparse_po import SparsePO, TokenMasks, activation_mask, kl_from_reference


def side(ratios, reward=None, kl=None, learnt=False, **more) -> TokenLogs:
    """One answer with these log-ratios of its tokens to the reference."""
    ratios = torch.tensor([ratios], requires_grad=learnt)
    masks = {name: torch.tensor([mask]) for name, mask in (("reward_mask", reward), ("kl_mask", kl)) if mask}
    return TokenLogs(log_probs=ratios, ref_log_probs=torch.zeros_like(ratios),
                     mask=torch.ones_like(ratios, dtype=torch.bool), **masks, **more)


def pair(chosen_mask=None, rejected_mask=None, **more) -> PairLogs:
    return PairLogs.of_sides(side([0.5, 1.5], chosen_mask, **more), side([-1.0, 0.0], rejected_mask, **more))


def test_every_token_counted_whole():
    # u = 2 - (-1) = 3: -log s(0.3) = 0.554355
    outcome = SparsePO(mask="whole", kl_mask="none")(pair())
    assert outcome.loss.item() == pytest.approx(0.554355, abs=1e-6)
    assert LanguageDPO()(pair()).loss.item() == pytest.approx(outcome.loss.item(), abs=1e-7)
    assert SparsePO(mask="whole", kl_mask="none").needs == {"rejected", "reference", "tokens"}


def test_masked_tokens():
    # 1.5 - (-1) = 2.5: -log s(0.25) = 0.575939
    method = SparsePO(kl_mask="none")
    outcome = method(pair([0.0, 1.0], [1.0, 0.0]))
    assert outcome.loss.item() == pytest.approx(0.575939, abs=1e-6)
    assert outcome.metrics["mask_mean"].item() == 0.5
    # L1: 0.575939 + 0.1 * (1 + 1)
    sparser = SparsePO(kl_mask="none", l1_reward=0.1)(pair([0.0, 1.0], [1.0, 0.0]))
    assert sparser.loss.item() == pytest.approx(0.775939, abs=1e-6)


def test_a_mask_of_0_ends_the_run_in_one_sentence():
    with pytest.raises(UserError, match=r"sparse_po: its mask keeps 0.00% .*objective.l1_reward"):
        SparsePO(kl_mask="none")(pair([0.0, 0.0], [0.0, 0.0]))


def distributions(policy, reference):
    """Logits [1, 2, 2] that are the same at both tokens."""
    return {name: torch.tensor([[p, p]]).log() for name, p in (("logits", policy), ("ref_logits", reference))}


def test_the_kl_term_is_tdpos():
    # KL((.5, .5) || (.8, .2)) = 0.5 log(0.5/0.8) + 0.5 log(0.5/0.2) = 0.223144 at each token of the chosen answer, 0 at
    # the rejected one's: d = -2 * 0.223144, z = 0.1 (3 + 0.446287) = 0.344629
    chosen = side([0.5, 1.5], **distributions([0.8, 0.2], [0.5, 0.5]))
    rejected = side([-1.0, 0.0], **distributions([0.5, 0.5], [0.5, 0.5]))
    assert kl_from_reference(chosen).tolist() == [pytest.approx([0.223144] * 2, abs=1e-6)]
    outcome = SparsePO(mask="whole")(PairLogs.of_sides(chosen, rejected))
    assert outcome.metrics["margin"].item() == pytest.approx(0.344629, abs=1e-6)
    assert "distributions" in SparsePO(mask="whole").needs


def test_the_kl_may_have_masks_of_its_own():
    # n_w = (0.5, 0): d = -0.111572; u = 3
    chosen = side([0.5, 1.5], [1.0, 1.0], [0.5, 0.0], **distributions([0.8, 0.2], [0.5, 0.5]))
    rejected = side([-1.0, 0.0], [1.0, 1.0], [0.0, 0.0], **distributions([0.5, 0.5], [0.5, 0.5]))
    outcome = SparsePO(kl_mask="independent", l1_kl=1.0)(PairLogs.of_sides(chosen, rejected))
    z = 0.1 * (3 + 0.111572)
    assert outcome.loss.item() == pytest.approx(math.log(1 + math.exp(-z)) + 0.5, abs=1e-6)
    with pytest.raises(ValueError, match="goes with mask learnt"):
        SparsePO(mask="activations", kl_mask="independent")


def test_activations_are_moved_to_0_to_1_within_an_answer():
    # means over 2 layers of 1 dimension: 1, 3, 2, then padding; (1 - 1)/2, (3 - 1)/2, (2 - 1)/2
    hidden = torch.tensor([[[[0.0], [2.0]], [[2.0], [4.0]], [[2.0], [2.0]], [[90.0], [90.0]]]])
    mask = torch.tensor([[True, True, True, False]])
    assert activation_mask(hidden, mask).tolist() == [[0, 1, 0.5, 0]]
    assert activation_mask(hidden, torch.tensor([[True, False, False, False]])).tolist() == [[1, 0, 0, 0]]
    chosen = side([0.5, 1.5], hidden=hidden[:, :2])
    rejected = side([-1.0, 0.0], hidden=hidden[:, :2].flip(1))
    outcome = SparsePO(mask="activations", kl_mask="none")(PairLogs.of_sides(chosen, rejected))
    assert outcome.loss.item() == pytest.approx(0.575939, abs=1e-6)  # the masks (0, 1) and (1, 0)


def test_learnt_masks_find_the_tokens_that_matter():
    # the reference's hidden state tells two kinds of tokens apart; only the first kind's log-ratio goes with preference
    torch.manual_seed(0)
    heads = SparsePO(kl_mask="none").heads(layers=3, width=4)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=0.02, weight_decay=0.01)
    kinds = torch.randint(2, (32, 2, 6), dtype=torch.float32)
    hidden = torch.randn(32, 2, 6, 3, 4) + 3 * kinds[..., None, None] * torch.tensor([1.0, -1.0, 0.0, 0.0])
    ratios = torch.where(kinds == 1, 1.0, torch.randn(32, 2, 6) * 3)
    ratios[:, 1] = torch.where(kinds[:, 1] == 1, -1.0, ratios[:, 1])
    method = SparsePO(beta=1.0, kl_mask="none", l1_reward=0.05)
    for _ in range(80):
        sides = []
        for i in (0, 1):
            reward, kl = heads(hidden[:, i])
            sides.append(TokenLogs(log_probs=ratios[:, i], ref_log_probs=torch.zeros(32, 6), reward_mask=reward,
                                   kl_mask=kl, mask=torch.ones(32, 6, dtype=torch.bool)))
        loss = method(PairLogs.of_sides(*sides)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        mask = heads(hidden.flatten(0, 1))[0]
    matter = kinds.flatten(0, 1) == 1
    assert mask[matter].mean() > 3 * mask[~matter].mean()


def test_heads_of_their_own():
    same, apart = TokenMasks(2, 4), TokenMasks(2, 4, independent=True)
    hidden = torch.randn(3, 5, 2, 4)
    assert torch.equal(*same(hidden)) and not torch.equal(*apart(hidden))
    assert same(hidden)[0].shape == (3, 5) and (same(hidden)[0] >= 0).all() and same(hidden)[0].mean() > 0
    assert SparsePO(mask="activations").heads(2, 4) is None and SparsePO(mask="activations").needs >= {"hidden"}


def test_pair_options_apply():
    flipped = SparsePO(mask="whole", kl_mask="none", label_smoothing=0.1)(pair())
    assert flipped.loss.item() == pytest.approx(0.554355 + 0.1 * 0.3, abs=1e-6)
    assert LanguageDPO(label_smoothing=0.1)(pair()).loss.item() == pytest.approx(flipped.loss.item())
    assert logs().h.item() == 2
