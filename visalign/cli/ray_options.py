"""Options of the commands that can work on a Ray cluster."""

import click

from visalign.cli.options import ranged, together
from visalign.validation.ranges import Limit, Positive, RayWorkers, Weight

ray_options = together(
    click.option("--engine", default="local", show_default=True, type=click.Choice(["local", "ray"]),
                 help="ray: on the machines of a Ray cluster, by Ray Data (docs/millions.md)."),
    click.option("--ray-address", metavar="HOST:PORT", help="Of the cluster's head (default: RAY_ADDRESS, else this "
                                                            "machine alone)."),
    click.option("--ray-workers", type=ranged(RayWorkers), help="Processes (default: one a GPU, or one a core)."),
    click.option("--ray-cpus", type=ranged(Positive), help="Cores of each (default: shared, half a core stays free)."),
    click.option("--ray-gpus", type=ranged(Weight), help="GPUs of each, 0.5 for two on one (default: 1 where there are "
                                                         "any)."),
    click.option("--partition-size", type=ranged(Limit), help="Samples made and kept together (default: 1000; a shard "
                                                              "is one partition)."))
_SETTINGS = {"ray_address": "address", "ray_workers": "workers", "ray_cpus": "cpus", "ray_gpus": "gpus",
             "partition_size": "partition_size"}


def ray_settings(engine: str, **given):
    """The settings of engine ray, None for local. Raises UsageError for options of ray without it."""
    from visalign.jobs.on_ray import RaySettings

    named = {name: value for name, value in given.items() if value is not None}
    if engine == "ray":
        return RaySettings(**{_SETTINGS[name]: value for name, value in named.items()})
    for name in named:
        raise click.UsageError(f"--{name.replace('_', '-')} belongs to --engine ray")
    return None
