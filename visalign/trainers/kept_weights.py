"""One set of a run's weights in a file beside its checkpoints, to which the run can return at its end."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from visalign.errors import UserError
from visalign.parallel.sharing import Processes
from visalign.parallel.tensors import laid_out, whole
from visalign.storage.weights import write_tensors
from visalign.trainers.followed import FollowedState


class KeptWeights:
    """The weights of one step, averaged where the run averages them. owner: what messages begin with."""

    def __init__(self, owner: str, folder: Path, state: FollowedState, processes: Processes):
        self.owner, self.folder, self.state, self.processes = owner, folder, state, processes
        self.file = folder / "best.safetensors"

    def save(self, step: int) -> None:
        """All processes together; what was kept before is replaced. Raises UserError when it cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self.state.averaged():
                weights = whole(self.state.parameters, keep=self.processes.is_first)
            if weights:
                write_tensors(self.file, weights, {"step": str(step)})
        except (OSError, RuntimeError) as error:
            raise UserError(f"{self.owner} {self.folder}: the best weights could not be saved "
                            f"({' '.join(str(error).split())[:150]})") from None

    def put_back(self, step: int) -> None:
        """Put them into the model of every process.

        Raises UserError when the file cannot be read, or is not of that step.
        """
        try:
            with safe_open(self.file, "pt") as weights, torch.no_grad():
                if weights.metadata() != {"step": str(step)}:
                    raise UserError(f"{self.owner} {self.file}: holds the weights of another step than {step}, the "
                                    "best one")
                for name, parameter in self.state.parameters:
                    parameter.copy_(laid_out(weights.get_tensor(name), parameter))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.owner} {self.file}: cannot be read ({error})") from None
        self.state.ema = None  # the kept weights are the average already
