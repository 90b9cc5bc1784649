"""How generators noise and sample: the mathematics, without networks."""

from visalign.processes.diffusion import Diffusion
from visalign.processes.flow import Flow

__all__ = ["Diffusion", "Flow"]
