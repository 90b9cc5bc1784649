"""What alignment gained and what it cost."""

from visalign.evaluators.statistics import Estimate, mean_with_interval
from visalign.evaluators.variety import within_prompt_variety

__all__ = ["Estimate", "mean_with_interval", "within_prompt_variety"]
