"""Who a user is by what they preferred: tokens of their pairs, from the embeddings of a frozen open_clip model.

    token = sqrt(D) [ n(f_w - f_l) ; n(f_w) ]          of one pair; n: to unit length, f: embeddings of D numbers

Of N pairs there are N tokens (generators/users.py), in no order.

Differs from PPD (Dang et al. 2025, arXiv 2501.06655) in: the paper takes hidden states of a vision-language model that
reads pairs and prompts; sqrt(D) makes the numbers of a token as large as those of other networks' tokens, about 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.rewards.base import FeatureExtractor
from visalign.rewards.registry import check_reward, load_reward


def pair_tokens(liked: Tensor, disliked: Tensor) -> Tensor:
    """[..., 2 D] of embeddings [..., D]; the first half is 0 where both are the same."""
    both = F.normalize(liked - disliked, dim=-1), F.normalize(liked, dim=-1)
    return liked.shape[-1] ** 0.5 * torch.cat(both, dim=-1)


def check_user_features(source: str) -> None:
    """Raise UserError for what is no open_clip model; a hub id is checked only on loading."""
    check_reward({"kind": "clip", "source": source})


def load_user_features(source: str, device: str) -> FeatureExtractor:
    """The open_clip model that looks at users' pairs. Raises UserError when it cannot be loaded."""
    return load_reward({"kind": "clip", "source": source}, device)
