"""What alignment gained and what it cost."""

from visalign.evaluators.measured import Measured
from visalign.evaluators.statistics import Estimate, mean_with_interval
from visalign.evaluators.verdict import Limits, Verdict, judge

__all__ = ["Estimate", "Limits", "Measured", "Verdict", "judge", "mean_with_interval"]
