"""Metrics of what alignment gained and what it cost."""

from visalign.evaluators.prompt_metrics import PromptMetrics
from visalign.evaluators.statistics import Estimate, mean_with_interval
from visalign.evaluators.verdict import Verdict, VerdictLimits, verdict_of

__all__ = ["Estimate", "VerdictLimits", "PromptMetrics", "Verdict", "verdict_of", "mean_with_interval"]
