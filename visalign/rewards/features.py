"""What any reward reads of samples before it gives them a number."""

from collections.abc import Callable

from torch import Tensor

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import Reward


def features_for(reward: Reward) -> Callable[[list[Sample]], Tensor]:
    """What gives samples their features [n, d]: those that a trained reward's heads read, or a CLIP model's, or a
    sentence encoder's. Raises UserError for a reward that has none."""
    for name in ("hidden_features", "sample_features"):
        if hasattr(reward, name):
            return getattr(reward, name)
    if hasattr(reward, "features"):
        return lambda samples: reward.features([sample.image for sample in samples])
    raise UserError(f"reward {reward.name}: has no features to probe; name a reward of `visalign reward train`, a CLIP "
                    "model such as tiny-clip, hpsv2 or clip:ARCHITECTURE/TAG, or of texts minilm")
