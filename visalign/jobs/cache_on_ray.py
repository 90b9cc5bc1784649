"""`visalign data cache --engine ray`: pairs encoded ahead by the workers of a Ray cluster.

Each worker encodes slices of the pairs into shards of its own, in the cache's folder, which all machines see. What is
there is known by its content, so that nothing is encoded twice after a kill. In the end make_cache.py goes over all
pairs: it finds them encoded, reports broken rows as ever, and makes what is still missing.
"""

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

from visalign.config import OfflineConfig
from visalign.data.preferences import read_pairs
from visalign.data.usable import BrokenRows
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.bucket_sizes import buckets_of
from visalign.jobs.make_cache import CacheContent, check_cache, make_cache
from visalign.jobs.offline_checks import wanted
from visalign.jobs.on_ray import RaySettings, Work, WorkerShare, run_partitions
from visalign.parallel.ray_cluster import check_ray
from visalign.sampling.encoding_cache import EncodingCache
from visalign.storage.shards import ShardStore
from visalign.trainers.offline.encoded_pairs import encode_pairs
from visalign.trainers.opening import open_accelerator

MOST_SLICES = 256
"""A worker reads the rows before its slice too; with so many slices that stays a small part of the work."""


@dataclass(frozen=True)
class PairSlice:
    """Pairs of the data by their number, from `start` to before `stop`."""

    start: int
    stop: int

    def name(self) -> str:
        return f"pairs {self.start} to {self.stop - 1}"


def cache_on_ray(config: OfflineConfig, ray: RaySettings) -> CacheContent:
    """As `make_cache`. Raises UserError for anything the user can fix."""
    check_ray("--engine ray")
    if config.goals:
        raise UserError("data cache: the prompts of data.goals follow from the rewards of all pairs, of which a worker "
                        "sees its part; encode the media alone with data.goals=null, or leave out --engine ray")
    found = check_cache(config)
    if not found.pairs:
        raise UserError(f"data {config.data.named}: --engine ray cuts pairs that are counted beforehand, and those of "
                        "a hub set are not; download it first, or use torchrun")
    folder = Path(config.data.cache).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    before = len(ShardStore(folder))
    size = max(ray.partition_size, -(-found.pairs // MOST_SLICES))
    slices = {number: PairSlice(start, min(start + size, found.pairs))
              for number, start in enumerate(range(0, found.pairs, size))}
    device = "cpu" if config.train.device == "cpu" else "auto"
    for _ in run_partitions(slices, functools.partial(encoder, config), ray, device, "encoding"):
        pass
    content = make_cache(config)
    return content._replace(encoded=len(ShardStore(folder)) - before)


def encoder(config: OfflineConfig, share: WorkerShare) -> Work:
    """In a worker: what encodes a slice."""
    accelerator = open_accelerator(config)
    generator = load_generator(config.model, accelerator.device, denoiser=False)
    cache = EncodingCache(config.data.cache, generator, config.data.cache_dtype)
    buckets = buckets_of(config.data, generator)

    def work(number: int, part: PairSlice) -> dict:
        cache.find_shared()
        broken = BrokenRows(config.data)
        pairs = read_pairs(config.data, on_bad_row=broken.note, again=True, **wanted(config))
        try:
            encode_pairs(itertools.islice(pairs, part.start, part.stop), cache, accelerator, broken, buckets)
        except UserError:
            if buckets is None:
                raise
            return {"number": number}  # all images of a slice may be too small, and not all of all: make_cache knows
        return {"number": number}

    return work
