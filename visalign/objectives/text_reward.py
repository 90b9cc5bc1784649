"""Bradley-Terry for a reward model of text, whose loss is TRL's:

    -log s(r_w - r_l - margin strength) + center (r_w + r_l)^2,   averaged over pairs

The second term keeps scores around 0, which the first one leaves undecided (Eisenstein et al. 2023, arXiv 2312.09244).
"""

from dataclasses import dataclass

from visalign.objectives.registry import register
from visalign.validation.ranges import Ranged, Weight


@register("language_reward", "bradley_terry")
@dataclass(frozen=True)
class BradleyTerry(Ranged):
    """margin: by how much more than strength times this the chosen answer must score. center: weight of the second
    term."""

    margin: Weight = 0.0
    center: Weight = 0.01
