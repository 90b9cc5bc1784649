"""VBench's temporal flickering (Huang et al. 2024), the dimension of it that needs no network: 1 less the mean absolute
change between consecutive frames, of all channels, in [0, 1]; the mean over videos of that dimension's prompts.

Differs from the published script in: videos that move are not left out before (theirs are, by RAFT), and of a video of
more than 256 frames so many are looked at.
"""

import json
from dataclasses import dataclass

import numpy as np

from visalign.data.suites import SuitePrompt
from visalign.errors import UserError
from visalign.evaluation.suites.base import SuiteFigure, SuiteScorer, mean_figure
from visalign.media.pixels import pixels_of
from visalign.media.samples import Sample

DIMENSION = "temporal_flickering"


@dataclass
class VBenchFlicker(SuiteScorer):
    """Of the prompts that VBench_full_info.json gives this dimension; of a plain list of prompts all."""

    modality = "video"
    frames = 256

    def used(self, items: list[SuitePrompt]) -> list[SuitePrompt]:
        kept = [item for item in items if not item.metadata or DIMENSION in json.loads(item.metadata)]
        if not kept:
            raise UserError(f"bench vbench: no prompt of {self.path} is of the dimension {DIMENSION}, the one that is "
                            "scored here")
        return kept

    def score(self, item: SuitePrompt, sample: Sample) -> float:
        frames = [pixels_of(frame) for frame in sample.frames(self.frames)]
        if len(frames) < 2:
            raise UserError("a video of one frame has no change between frames")
        return 1 - float(np.mean([np.abs(b - a).mean() for a, b in zip(frames, frames[1:], strict=False)]))

    def figures(self, items: list[SuitePrompt], scored: list[list[float]]) -> list[SuiteFigure]:
        return [mean_figure(DIMENSION, scored, True)]
