"""`visalign data cache`: a recipe's latents and embeddings made ahead, by as many processes as there are.

Run on several:  torchrun --nproc_per_node 8 -m visalign data cache RECIPE
A command that was killed continues where it was: it encodes only what is missing. The denoiser's weights are not read.
"""

from typing import NamedTuple

from visalign.config import OfflineConfig
from visalign.data.preferences import read_pairs
from visalign.data.usable import BrokenRows, FoundPairs
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.bucket_sizes import buckets_of
from visalign.generators.files.locating import locate_model
from visalign.generators.files.sketching import empty_generator
from visalign.jobs.disk_estimate import check_cache_room
from visalign.jobs.offline_checks import check_offline, compares, wanted
from visalign.sampling.encoding_cache import EncodingCache
from visalign.trainers.offline.encoded_pairs import asks_without_prompt, check_items, empty_keys, encode_pairs
from visalign.trainers.opening import open_accelerator


class CacheContent(NamedTuple):
    """What a recipe needs of a cache, all of which is there: pairs, their distinct media and prompts; and how many
    entries were not there before."""

    folder: str
    pairs: int
    media: int
    prompts: int
    encoded: int


def check_cache(config: OfflineConfig) -> FoundPairs:
    """What is known of the recipe's pairs. Raises UserError for anything that can be found before a model is loaded."""
    if config.loop != "offline" or config.data.feedback or config.data.subject:
        raise UserError("data cache: this recipe makes its samples itself, during the run; only pairs and captioned "
                        "media that are read (data.path) can be encoded ahead")
    if config.goals and config.data.score_with:
        raise UserError("data cache: the prompts of data.goals follow from rewards, which data.score_with gives during "
                        "the run; encode the media alone with data.goals=null")
    checkpoint = locate_model(config.model)
    found = check_offline(config, checkpoint.family)
    check_cache_room(config, empty_generator(checkpoint, config.model), found)
    return found


def make_cache(config: OfflineConfig) -> CacheContent:
    """Encode all that training by this recipe will read. Raises UserError for anything the user can fix."""
    found = check_cache(config)
    accelerator = open_accelerator(config)
    generator = load_generator(config.model, accelerator.device, denoiser=False)
    cache, broken = EncodingCache(config.data.cache, generator, config.data.cache_dtype), BrokenRows(config.data)
    before = len(cache.store)
    pairs = read_pairs(config.data, on_bad_row=broken.note, again=True, **wanted(config))
    items = encode_pairs(pairs, cache, accelerator, broken, buckets_of(config.data, generator),
                         total=sum(found.sizes) or None, goals=config.goals)
    check_items(config.taught_by(), items, broken, compares(config))
    if asks_without_prompt(config):
        empty_keys(items, cache, accelerator)
    media = {key for item in items for key in (item.chosen_key, item.rejected_key) if key}
    prompts = {key for item in items for key in (item.prompt_key, *(key for _, key in item.captions))}
    accelerator.end_training()
    return CacheContent(str(cache.folder), len(items), len(media), len(prompts), len(cache.store) - before)
