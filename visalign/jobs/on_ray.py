"""Partitions of a command's work on the machines of a Ray cluster, through Ray Data.

Workers are actors that load their model once and are given partitions by number. Only these and short results pass
through Ray: a worker reads its partition from the source and writes it to the output, so that no object store fills up.
A partition whose worker dies is given to another one; what was written before is not made again.
"""

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from visalign.errors import UserError
from visalign.parallel.ray_cluster import cluster
from visalign.storage.files import refusal
from visalign.validation.ranges import Limit, Positive, Ranged, RayWorkers, WaitMinutes

MOST_ATTEMPTS = 3
"""A partition that ended its worker so often ends the command."""
_MOST_BLOCKS = 10_000
_STORE_GIB = 0.25
"""Of a Ray on this machine: partitions are named in it, not kept."""
_OURS = "error raised in its creation task"
"""What Ray says of a worker that failed while it loaded, and that no machine is to blame for."""
Work = Callable[[int, Any], dict]
"""(number, partition) -> a result that JSON can hold. Raises UserError or OSError for what ends the command."""


@dataclass(frozen=True)
class RaySettings(Ranged):
    """address: of the cluster; None is RAY_ADDRESS, else this machine. workers: processes; by default one a GPU, or one
    a core. cpus, gpus: of each; cores are shared by default so that half a core stays free, for Ray waits for ever
    where nothing is left for what reads. partition_size: samples in a partition, where the source does not say.
    wait_minutes: without any progress, after which the command ends.
    """

    address: str | None = None
    workers: RayWorkers | None = None
    cpus: Positive | None = None
    gpus: float | None = None
    partition_size: Limit = 1000
    wait_minutes: WaitMinutes = 60.0


@dataclass(frozen=True)
class WorkerShare:
    """How many workers there are, the cores and GPUs of each, and the device it computes on."""

    workers: int
    cpus: float
    gpus: float
    device: str


def share_of(settings: RaySettings, nodes: list[dict[str, float]], device: str) -> WorkerShare:
    """What each worker gets. nodes: the resources of each machine. Raises UserError for more than there is."""
    cores, cards = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    gpus = settings.gpus if settings.gpus is not None else 1.0 if cards and device != "cpu" else 0.0
    if device == "cuda" and not gpus:
        raise UserError("--device cuda: no machine of the Ray cluster has a GPU; use auto or cpu")
    workers = settings.workers or max(1, int(cards / gpus if gpus else cores))
    even = math.floor(100 * max(cores - 0.5, 0.01) / workers) / 100
    for cpus in [settings.cpus] if settings.cpus else [even, even / 2]:
        if _room(nodes, cpus, gpus) >= workers:
            return WorkerShare(workers, cpus, gpus, "cuda" if gpus and device != "cpu" else "cpu")
    asked = f"{workers} workers of {cpus:g} cores" + (f" and {gpus:g} GPUs" if gpus else "")
    raise UserError(f"--engine ray: {asked} do not fit the cluster's {cores:g} cores and {cards:g} GPUs on "
                    f"{len(nodes)} machines; lower --ray-workers, --ray-cpus or --ray-gpus")


def _room(nodes: list[dict[str, float]], cpus: float, gpus: float) -> int:
    return sum(int(min(node.get("CPU", 0.0) / cpus, node.get("GPU", 0.0) / gpus if gpus else math.inf))
               for node in nodes)


def run_partitions(partitions: dict[int, Any], make: Callable[[WorkerShare], Work], settings: RaySettings, device: str,
                   label: str) -> Iterator[dict]:
    """The results of all partitions as they come. make: loads what a worker needs, in the worker.

    Raises UserError for what a worker or the cluster says; the same command then continues.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else every start warns of what Ray Data itself does
    with cluster(settings.address, setting="--engine ray", store_gib=_STORE_GIB) as ray, ray_errors_told(settings):
        import ray.data as ray_data

        share = share_of(settings, [node["Resources"] for node in ray.nodes() if node["Alive"]], device)
        quiet_data(ray_data.DataContext.get_current(), settings)
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()
        rows = [{"number": number, "partition": partition} for number, partition in partitions.items()]
        data = ray_data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map_batches(
            _Worker, fn_constructor_args=(make, share, attempts, os.getcwd()), batch_size=1,
            compute=ray_data.ActorPoolStrategy(size=min(share.workers, len(rows))), num_cpus=share.cpus,
            num_gpus=share.gpus or None)
        for row in tqdm(data.iter_rows(), desc=label, unit="partition", total=len(rows)):
            result = json.loads(row["result"])
            if "problem" in result:
                raise UserError(result["problem"])
            yield result


def quiet_data(context, settings: RaySettings) -> None:
    """Ray Data without bars and figures of its own, and with an end to its patience."""
    import logging

    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = 60 * settings.wait_minutes
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


class _Attempts:
    """How often each partition was begun and not ended, in a process that no worker takes with it."""

    def __init__(self):
        self.begun: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self.begun[number] += 1
        return self.begun[number]

    def end(self, number: int) -> None:
        del self.begun[number]


class _Worker:
    """What Ray Data makes once in each process. What ends the command travels as a result: Ray would wrap it."""

    def __init__(self, make: Callable[[WorkerShare], Work], share: WorkerShare, attempts, folder: str):
        with contextlib.suppress(OSError):  # another machine; what lies there is named by whole paths
            os.chdir(folder)
        self.attempts = attempts
        self.problem, self.work = "", None
        try:
            self.work = make(share)
        except (UserError, OSError) as error:
            self.problem = as_sentence(error)

    def __call__(self, batch: dict) -> dict:
        [number], [partition] = batch["number"], batch["partition"]
        return {"result": [json.dumps(self.result(int(number), partition))]}

    def result(self, number: int, partition) -> dict:
        import ray

        if self.problem:
            return {"problem": self.problem}
        if ray.get(self.attempts.begin.remote(number)) > MOST_ATTEMPTS:
            return {"problem": f"partition {number} ({partition.name()}): {MOST_ATTEMPTS} workers died of it, most "
                               "likely for lack of memory; use fewer --ray-workers, or leave out what is in it"}
        try:
            found = self.work(number, partition)
            self.attempts.end.remote(number)
            return found
        except (UserError, OSError) as error:
            return {"problem": as_sentence(error)}


def as_sentence(error: UserError | OSError) -> str:
    return refusal(error) if isinstance(error, OSError) else str(error)


@contextlib.contextmanager
def ray_errors_told(settings: RaySettings) -> Iterator[None]:
    """Turns what Ray raises about the cluster into UserError; what it raises about our own code stays as it is."""
    from ray import exceptions
    from ray.data.exceptions import ExecutionTimeoutError

    told = {
        (exceptions.ObjectStoreFullError, exceptions.OutOfDiskError):
            "its object store is full; start it with a larger --object-store-memory, or lower --ray-workers",
        (exceptions.OutOfMemoryError,): "a machine has no memory left; lower --ray-workers",
        (ExecutionTimeoutError,): f"no partition was finished in {settings.wait_minutes:g} minutes",
        (exceptions.RayActorError, exceptions.NodeDiedError, exceptions.LocalRayletDiedError,
         exceptions.WorkerCrashedError, exceptions.OwnerDiedError, exceptions.ObjectLostError,
         exceptions.RaySystemError, exceptions.RpcError, exceptions.GetTimeoutError): "a machine of it was lost",
    }
    try:
        yield
    except Exception as error:
        causes = list(_causes(error))
        ours = any(_OURS in str(each) for each in causes)  # Ray has no other sign of it
        for kinds, words in told.items():
            if not ours and any(isinstance(each, kinds) for each in causes):
                raise UserError(f"the Ray cluster: {words}; the same command continues") from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised of."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__
