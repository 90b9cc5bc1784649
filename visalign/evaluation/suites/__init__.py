"""Public prompt suites scored here, each by the aggregation of its own scripts, with intervals that those do not
give."""

from visalign.config.load import build_dataclass
from visalign.errors import UserError, nearest
from visalign.evaluation.suites.base import SuiteFigure, SuiteScorer
from visalign.evaluation.suites.compbench import CompBench
from visalign.evaluation.suites.dpg import DpgBench
from visalign.evaluation.suites.flicker import VBenchFlicker
from visalign.evaluation.suites.geneval import GenEval
from visalign.evaluation.suites.text import ShownText

__all__ = ["SUITE_SCORERS", "SuiteFigure", "SuiteScorer", "build_scorer"]

SUITE_SCORERS: dict[str, type[SuiteScorer]] = {
    "geneval": GenEval,
    "t2i-compbench": CompBench,
    "dpg-bench": DpgBench,
    "vbench": VBenchFlicker,
    "text": ShownText,
}


def build_scorer(name: str, path: str, settings: dict, device: str) -> SuiteScorer:
    """Of a suite `NAME:PATH`, with its settings; nothing is loaded yet. Raises UserError naming what is wrong."""
    if name not in SUITE_SCORERS:
        raise UserError(f"bench {name}: no such suite{nearest(name, SUITE_SCORERS)}")
    given = {"device": device, **settings, "path": path}
    return build_dataclass(SUITE_SCORERS[name], given, f"bench {name}: unknown setting {{key}}", f"bench {name}")
