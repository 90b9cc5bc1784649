"""How generators noise and sample: the mathematics, without networks."""

from visalign.processes.diffusion import Diffusion
from visalign.processes.flow import Flow

PROCESSES: dict[str, type[Diffusion] | type[Flow]] = {"diffusion": Diffusion, "flow": Flow}

__all__ = ["PROCESSES", "Diffusion", "Flow"]
