"""How well a video fits its prompt, by optimal transport (PISCES, Le et al. 2026, arXiv 2602.01624).

Quality: features of texts and of videos lie in different regions, and their plain cosine sees the gap beside the fit. A
map T carries the cloud of captions to the cloud of real videos, and R = cos(T(y), x) compares within the second.

Semantics: a partial plan P of mass m between the n words of a prompt and the patches of the frames, at the costs

    C_ij = 1 - cos(y_i, x_j) + gamma |tau_i - t_j| + eta |pi_i - s_j|^2,     R = sum_ij P_ij (1 - C_ij) / m,

with t_j when a patch is and s_j where, and tau_i, pi_i the means of these that word i looks at.

Differs from the paper in: features are a CLIP model's, the mean over frames for a video, not InternVideo2's; T is the
barycentric projection of a Sinkhorn plan over some thousand real videos, carried on to other texts by ridge regression,
not a pair of networks (`visalign reward transport` makes it). A CLIP model has no attention between words and patches
and no head that says whether they match: words look by softmax(s cos(y_i, x_j)), s the model's own logit scale, and R
is what the plan transports, where the paper adds log P to the attention and takes that head's probability of a match.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import Scores
from visalign.rewards.clip import FRAMES
from visalign.rewards.clip_tokens import patch_places
from visalign.rewards.on_clip import ClipFeatures, OfClip, OneClip, check_width, refuse_width
from visalign.rewards.sinkhorn import partial_plan
from visalign.storage.weights import read_shapes, read_tensors
from visalign.validation.ranges import Positive, Share, Weight

MAPPED = {"matrix": 2, "shift": 1}
"""Tensors of a map's file and their dimensions: T(y) = y matrix + shift."""
ITERATIONS = 30
"""Of Sinkhorn at each eps on its way down."""


def video_features(clip: ClipFeatures, samples: list[Sample]) -> Tensor:
    """Unit features [n, d]: of images, and of videos the mean over frames."""
    frames = [sample.frames(FRAMES) for sample in samples]
    found = clip.features([frame for each in frames for frame in each]).split([len(each) for each in frames])
    return F.normalize(torch.stack([own.mean(0) for own in found]), dim=-1)


@dataclass
class TransportQuality(OfClip):
    """Cosine of a video with its prompt carried to where real videos are, by a CLIP model (PISCES's quality).

    of: the CLIP model. map: the .safetensors file that `visalign reward transport` wrote for it.
    """

    map: str = ""

    modalities = frozenset({"image", "video"})
    dimensions = ("quality",)
    score_range = (-1.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        self._map: dict[str, Tensor] | None = None

    def check(self) -> None:
        super().check()
        if not self.map:
            raise UserError(f"reward {self.name}: set map to the file that `visalign reward transport` wrote for "
                            f"{self._clip.name}")
        shapes = read_shapes(Path(self.map).expanduser(), self._where)
        if {name: len(shape) for name, shape in shapes.items()} != MAPPED or len({n for s in shapes.values()
                                                                                  for n in s}) != 1:
            held = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"
            raise UserError(f"{self._where}: holds {held}; expected matrix [d, d] and shift [d], as `visalign reward "
                            "transport` writes them")
        check_width(self._clip, shapes["shift"][0], self._where)

    @property
    def _where(self) -> str:
        return f"reward {self.name}: map {self.map}"

    def wanted(self, prompts: list[str]) -> tuple[Tensor, list[str | None]]:
        texts, notes = self._clip.prompt_features(prompts)
        if self._map is None:
            self._map = read_tensors(Path(self.map).expanduser(), self._where)
            refuse_width(self._clip, len(self._map["shift"]), texts.shape[1], self._where)
        return F.normalize(texts @ self._map["matrix"].to(texts) + self._map["shift"].to(texts), dim=-1), notes

    def embedded(self, samples: list[Sample]) -> Tensor:
        return video_features(self._clip, samples)


def word_costs(words: Tensor, patches: Tensor, sharpness: float, by_time: float, by_place: float) -> Tensor:
    """C, float64 [l, T h w], of unit features of words [l, d] and of the patches of T frames [T, h, w, d].

    sharpness: s of the attention. by_time, by_place: gamma and eta; time and place run from 0 to 1.
    """
    cosines = words.double() @ patches.flatten(0, 2).double().T
    when, where = (each.double() for each in patch_places(*patches.shape[1:3], len(patches)))
    looks = (sharpness * cosines).softmax(-1)
    apart = (looks @ when)[:, None] - when, (looks @ where)[:, None] - where
    return 1 - cosines + by_time * apart[0].abs() + by_place * apart[1].square().sum(-1)


@dataclass
class TransportSemantic(OneClip):
    """What optimal transport finds of each word of a prompt in the patches of a video's frames (PISCES's semantics).

    of: the CLIP model, with a vision transformer. mass: how much of words and patches is matched; the rest may lack in
    the other. epsilon: of the plan, in units of 1 - cosine. by_time, by_place: what it costs that a patch is elsewhere
    than its word looks, for a video's whole length and for an image's side squared.
    """

    mass: Share = 0.9
    epsilon: Positive = 0.05
    by_time: Weight = 0.0
    by_place: Weight = 0.0

    modalities = frozenset({"image", "video"})
    dimensions = ("semantic",)

    def __post_init__(self):
        super().__post_init__()
        if not hasattr(self._clip, "patch_features"):
            raise ValueError(f"of: {self._clip.name} has no features of words and patches; take a CLIP model such as "
                             "tiny-clip or clip:ARCHITECTURE/TAG")
        self.score_range = (-1.0 - self.by_time - 2 * self.by_place, 1.0)

    def check(self) -> None:
        super().check()
        self._clip.check_tokens(f"reward {self.name}")

    def score_batch(self, samples: list[Sample]) -> Scores:
        words = {prompt: self._clip.word_features(prompt) for prompt in dict.fromkeys(each.prompt for each in samples)}
        sharpness = self._clip.network.logit_scale.exp().item()
        found = []
        for sample in samples:  # one by one: the patches of many videos would not fit
            cost = word_costs(words[sample.prompt][0], self._clip.patch_features(sample.frames(FRAMES)), sharpness,
                              self.by_time, self.by_place)
            plan = partial_plan(cost, self.mass, self.epsilon, ITERATIONS)
            found.append((plan * (1 - cost)).sum() / plan.sum())
        notes = {i: words[sample.prompt][1] for i, sample in enumerate(samples)}
        return Scores(torch.stack(found)[:, None].float(), {i: note for i, note in notes.items() if note})
