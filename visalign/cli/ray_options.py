"""Options of the commands that can work on a Ray cluster."""

import click

from visalign.cli.options import ranged, together
from visalign.validation.ranges import Limit, Positive, RayWorkers, WaitMinutes, Weight

ray_options = together(
    click.option("--engine", default="local", show_default=True, type=click.Choice(["local", "ray"]),
                 help="ray: on the machines of a Ray cluster, by Ray Data (docs/millions.md)."),
    click.option("--ray-address", metavar="HOST:PORT", help="Of the cluster's head (default: RAY_ADDRESS, else this "
                                                            "machine alone)."),
    click.option("--ray-workers", type=ranged(RayWorkers), help="Processes (default: one a GPU, or one a core)."),
    click.option("--ray-cpus", type=ranged(Positive), help="Cores of each (default: shared, half a core stays free)."),
    click.option("--ray-gpus", type=ranged(Weight), help="GPUs of each, 0.5 for two on one (default: 1 where there are "
                                                         "any)."),
    click.option("--ray-wait-minutes", type=ranged(WaitMinutes), help="Without a finished partition, after which the "
                                                                      "command ends (default: 60; generate: 1440)."),
    click.option("--partition-size", type=ranged(Limit), help="Samples made and kept together (default: 1000, "
                                                              "generate: 32; a shard is one partition)."))
_SETTINGS = {"ray_address": "address", "ray_workers": "workers", "ray_cpus": "cpus", "ray_gpus": "gpus",
             "ray_wait_minutes": "wait_minutes", "partition_size": "partition_size"}


def ray_settings(engine: str, slow: bool = False, **given):
    """The settings of engine ray, None for local. slow: whether a sample takes seconds rather than milliseconds.

    Raises UsageError for options of ray without it.
    """
    from visalign.jobs.on_ray import RaySettings

    named = {name: value for name, value in given.items() if value is not None}
    if engine == "ray":
        defaults = {"partition_size": 32, "wait_minutes": 1440.0} if slow else {}
        return RaySettings(**defaults | {_SETTINGS[name]: value for name, value in named.items()})
    for name in named:
        raise click.UsageError(f"--{name.replace('_', '-')} belongs to --engine ray")
    return None
