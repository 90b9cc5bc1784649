"""The views of the generator's own samples, by the name that an objective gives in `view`."""

from visalign.trainers.online.scored_views import KnownNoiseView, SamplingView
from visalign.trainers.online.sibling_view import SiblingView
from visalign.trainers.online.views import NoisedView, PredictingView, StepView

VIEWS: dict[str, type[PredictingView]] = {
    "steps": StepView, "siblings": SiblingView, "noised": NoisedView, "sampling": SamplingView,
    "known_noise": KnownNoiseView}
