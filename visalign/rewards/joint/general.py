"""GPM, the general preference model: an embedding of each sample, which says of any two of one prompt which is better.

    e in R^2k, to unit length       score(i, j) = sum_l lambda_l(prompt) ( e_i[2l] e_j[2l+1] - e_i[2l+1] e_j[2l] )
    P(i beats j) = s( score / tau )                lambda = softmax(prompt head), or 1

score(i, j) = -score(j, i), and score(i, i) = 0, but a beats b beats c beats a is possible, which no number for each
sample can say. It is <R e_i, e_j> with blocks R = [[0, -1], [1, 0]], the sign of the published code; e_i^T R e_j is the
opposite. |score| <= 1, so that with tau 1 no probability exceeds .731.

GPM: Zhang et al., ICML 2025, arXiv 2410.02197 (github.com/general-preference/general-preference-model).
Differs from it in: the roots of lambda and of 1/tau multiply the embedding, so that two samples of one prompt are
compared by the plain form (`preference_score`); every member of an ensemble has its own embedding.
Recipe: configs/reward_model/general.yaml.
"""

import torch.nn.functional as F
from torch import Tensor

from visalign.config import JointSettings
from visalign.rewards.joint.heads import NOBODY_KNOWN, Backbone, Head, KnownUsers, vectors


class GeneralPreference(Head):
    """features [B, 1, d] -> embeddings [B, E, 1, 2k], of length tau^-1/2 at most."""

    gives = "embeddings"
    scored_by = "joint_pairs"

    def __init__(self, settings: JointSettings, backbone: Backbone):
        super().__init__()
        general = settings.general
        self.tau, self.prompt = general.tau, backbone.prompt
        self.embed = vectors(settings, backbone.features, 2 * general.blocks)
        self.weigh = vectors(settings, self.prompt.stop - self.prompt.start, general.blocks) \
            if general.prompt_weights else None

    @classmethod
    def of(cls, settings: JointSettings, backbone: Backbone, users: KnownUsers = NOBODY_KNOWN) -> "GeneralPreference":
        return cls(settings, backbone)

    def read_as(self, features: Tensor) -> Tensor:
        return self.embed.norm(features)

    def forward(self, features: Tensor) -> Tensor:
        embedding = F.normalize(self.embed(features), dim=-1) * self.tau**-0.5
        if self.weigh is None:
            return embedding
        weights = self.weigh(features[..., self.prompt]).softmax(-1)
        return embedding * weights.sqrt().repeat_interleave(2, -1)
