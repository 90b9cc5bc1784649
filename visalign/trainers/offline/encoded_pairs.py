"""From pairs to the batches of a step: every pair is encoded once, then addressed by its place in the data order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from visalign.config import OfflineConfig
from visalign.config.goals import PromptGoalSettings
from visalign.config.load import build_objective
from visalign.data.goals import goal_rows
from visalign.data.pareto import check_win_rates
from visalign.data.preference_pair import PreferencePair
from visalign.data.usable import SCORED, BrokenRows, check_different, check_rewarded
from visalign.errors import UserError, notice
from visalign.generators.base import Conditioning, Generator
from visalign.generators.hardware.quantization import plain_tensors
from visalign.generators.many_sizes import UnusableSize
from visalign.generators.prompt_length import say_what_is_cut
from visalign.generators.video_speed import how_wrong, say_speeds
from visalign.media.buckets import Buckets
from visalign.media.fitting import Size
from visalign.media.source_images import content_of, put_into
from visalign.parallel.sharing import doing
from visalign.sampling.encoding_cache import EncodingCache, KnownMedia
from visalign.sampling.seeds import rng_for
from visalign.sampling.source_check import check_takes_sources

PAIR_SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class EncodedPair:
    """A pair as cache keys; of a captioned medium alone, rejected_key is None. prompt: with its source images.

    captions: further prompts of the same media and their keys. origin: the place of its source in data.sources. asking:
    what its prompts are put into, such as "{prompt}, quality 4 out of 10"; the keys are those of what results.
    desirable: of a labelled medium, whether it is good. rejected_prompt: text and key of the rejected one's prompt,
    where it has its own. label_margin: by how much a reward prefers the chosen one.
    """

    prompt: str
    prompt_key: str
    chosen_key: str
    rejected_key: str | None
    where: str
    strength: float
    chosen_reward: float | None
    rejected_reward: float | None
    chance: float = 1.0
    speed: float = 1.0  # at which motion in its videos is learnt, of the one further from 1
    user: str | None = None
    captions: tuple[tuple[str, str], ...] = ()
    origin: int = 0
    size: Size | None = None  # at which its images are learnt, where that is not the same for all
    asking: str | None = None
    desirable: bool | None = None
    rejected_prompt: tuple[str, str] | None = None
    label_margin: float | None = None

    @property
    def others(self) -> tuple[tuple[str, str], ...]:
        """Text and key of all its prompts but the first."""
        return (*self.captions, *([self.rejected_prompt] if self.rejected_prompt else []))

    def prompt_keys_at(self, seed: int, place: int) -> tuple[str, str]:
        """The keys of both samples' prompts at a place of the order."""
        key = self.prompt_key_at(seed, place)
        return key, self.rejected_prompt[1] if self.rejected_prompt else key

    def prompt_key_at(self, seed: int, place: int) -> str:
        """The key of the prompt that is learnt at a place of the order: one of all, drawn anew at each."""
        if not self.captions:
            return self.prompt_key
        drawn = int(torch.randint(len(self.captions) + 1, (), generator=rng_for("caption", seed, place)))
        return self.captions[drawn - 1][1] if drawn else self.prompt_key


@dataclass(frozen=True)
class PairBatch:
    """Latents [B, C, (F,) H, W], conditioning, strength, chance, rewards and labels [B] on the CPU, and their items.

    fits: by side `Fitting.numbers` of its images [B, 6], where the network is told them. rejected_conditioning: of the
    rejected samples, where it is not the chosen ones'. coin: a uniform number [B] for labels that are drawn.
    """

    items: list[EncodedPair]
    chosen: Tensor
    rejected: Tensor | None
    conditioning: Conditioning
    strength: Tensor
    chosen_reward: Tensor | None
    rejected_reward: Tensor | None
    chance: Tensor
    fits: dict[str, Tensor] = field(default_factory=dict)
    desirable: Tensor | None = None
    rejected_conditioning: Conditioning | None = None
    coin: Tensor | None = None

    @property
    def conditionings(self) -> list[Conditioning]:
        """`conditioning`, and the rejected samples' where it is another."""
        return [self.conditioning, *([self.rejected_conditioning] if self.rejected_conditioning else [])]

    @property
    def size(self) -> Size | None:
        """Of all of its images, None for the generator's own."""
        return self.items[0].size


class PreparedPairs(NamedTuple):
    """What the network is shown of a batch of B pairs, on the CPU: times [B], noise [B, C, (F,) H, W], and the random
    numbers of each pair for all else that is drawn. Where the two samples of a pair share neither, times and noise are
    [2B, ...], those of the rejected ones second."""

    batch: PairBatch
    t: Tensor
    noise: Tensor
    rngs: list[torch.Generator]

    def pinned(self) -> "PreparedPairs":
        """The same in memory from which a GPU reads while it computes."""
        batch = self.batch
        rejected = None if batch.rejected is None else batch.rejected.pin_memory()
        shared, *own = [{name: value.pin_memory() for name, value in each.items()} for each in batch.conditionings]
        return self._replace(noise=self.noise.pin_memory(), batch=replace(
            batch, chosen=batch.chosen.pin_memory(), rejected=rejected, conditioning=shared,
            rejected_conditioning=own[0] if own else None))


EncodedLook = Callable[[PreferencePair, EncodedPair], None]
"""Called with each pair once it is encoded. Raises UserError for one that cannot be read."""


def encode_pairs(pairs: Iterable[PreferencePair], cache: EncodingCache, accelerator: Accelerator, broken: BrokenRows,
                 buckets: Buckets | None = None, batch: int = 16, total: int | None = None,
                 goals: PromptGoalSettings | None = None,
                 look: EncodedLook = lambda pair, item: None) -> list[EncodedPair]:
    """Encode every pair into the cache, each process its share, and return all items in the data's order.

    total: how many pairs there are, where that is known. A pair that cannot be read goes to `broken`, on all processes
    at the same moment, so that they end together. Pairs whose chosen image is too small for `buckets` are left out and
    counted. goals: each pair twice, asked for the score of either sample. look: what else shall see each pair, at the
    size it is learnt at; what it adds to the cache is shared with it.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    small: list[str] = []
    numbered: list[tuple[int, EncodedPair]] = []

    def encode(held: list[tuple[int, PreferencePair]]) -> None:
        failed: list[tuple[int, str]] = []
        doing()
        for number, pair in held:
            try:
                size = size_of(pair, buckets)
                if buckets and size is None:
                    small.append(pair.where)
                    continue
                with cache.generator.working_at(size):
                    item = replace(encode_media(pair, cache), size=size)
                    look(pair, item)
            except UnusableSize:
                raise
            except UserError as error:
                failed.append((number, str(error)))
                continue
            numbered.extend([(number, item)] * pair.repeats)
        for _, reason in sorted(gather_object(failed) if world > 1 else failed):
            broken.note(UserError(reason))

    progress = tqdm(pairs, desc="encoding pairs", unit="pair", total=total, disable=not accelerator.is_main_process)
    together: list[tuple[int, PreferencePair]] = []
    for number, pair in enumerate(progress):
        together.append((number, pair if number % world == rank else None))
        if len(together) == batch * world:
            encode([entry for entry in together if entry[1]])
            together.clear()
    encode([entry for entry in together if entry[1]])
    cache.share()
    if world > 1:
        numbered, small = gather_object(numbered), gather_object(small)
    items = [item for _, item in sorted(numbered, key=lambda entry: entry[0])]
    say_what_is_small(sorted(small), len(items), buckets)
    if goals:
        items = asked_for_goals(items, goals, cache)
    at = encoded_at(items, cache.generator)
    for size in dict.fromkeys(at.values()):
        prompts = prompts_of(item for item in items if at[item.size] == size)
        with cache.generator.working_at(size):
            encode_prompts(prompts, cache, accelerator)
    say_what_is_cut(cache.generator, list(prompts_of(items).values()), "training pairs" + (
        " (a goal at the end of one that is cut off is not read)" if goals else ""))
    say_speeds([(item.speed, item.where) for item in items], cache.generator.shape)
    return items


def prompts_of(items: Iterable[EncodedPair]) -> dict[str, str]:
    """All prompts of the items as they are learnt, by key."""
    return {key: put_into(item.asking, text) for item in items
            for text, key in ((item.prompt, item.prompt_key), *item.others)}


def asked_for_goals(items: list[EncodedPair], goals: PromptGoalSettings, cache: EncodingCache) -> list[EncodedPair]:
    """Each item twice, asked for the score of either sample; those of equal scores are left out and counted.

    Raises UserError for an item without rewards.
    """
    rows = goal_rows(items, goals, "samples", SCORED)
    keys: dict[tuple[Size | None, str], str] = {}

    def key(size: Size | None, text: str) -> str:
        if (size, text) not in keys:
            with cache.generator.working_at(size):
                keys[size, text] = cache.prompt_key(text)
        return keys[size, text]

    return [replace(item, asking=asking, prompt_key=key(item.size, put_into(asking, item.prompt)),
                    captions=tuple((text, key(item.size, put_into(asking, text))) for text, _ in item.captions),
                    rejected_prompt=item.rejected_prompt and (
                        item.rejected_prompt[0], key(item.size, put_into(asking, item.rejected_prompt[0]))))
            for item, asking, _ in rows]


def size_of(pair: PreferencePair, buckets: Buckets | None) -> Size | None:
    """The size at which both images of a pair are learnt: the chosen one's; None without buckets or where it is too
    small. Raises UserError for what is no image."""
    return buckets and buckets.size_for(pair.size())


def say_what_is_small(small: list[str], kept: int, buckets: Buckets | None) -> None:
    """Say how many pairs were left out. Raises UserError where none is kept."""
    if not small:
        return
    what = f"{len(small)} of {len(small) + kept} pairs are left out, since a side of their chosen image, enlarged " \
           f"{buckets.enlarge:g} times at most, is below {buckets.least} pixels, as that of {small[0]}"
    if not kept:
        raise UserError(f"data.buckets.enlarge: {what}; raise data.buckets.enlarge or lower data.buckets.min")
    notice(f"data.buckets.enlarge: {what}")


def encoded_at(items: list[EncodedPair], generator: Generator) -> dict[Size | None, Size | None]:
    """The size at which the prompts of each size's items are encoded; None is the generator's own."""
    found = {}
    sizes = sorted({item.size for item in items}, key=lambda size: size or ())
    for size in tqdm(sizes, desc="looking at the model's sizes", unit="size", leave=False, delay=2):
        with generator.working_at(size):
            found[size] = size if generator.by_size else None
    return found


def asks_without_prompt(config: OfflineConfig) -> bool:
    """Whether training needs the empty prompt: to learn without one, or to guide away from it."""
    objective = build_objective(config.objective)
    own = "own" in objective.needs and config.data.selves.guidance_scale != 1
    return config.data.caption_dropout > 0 or objective.guided or own


def empty_keys(items: list[EncodedPair], cache: EncodingCache, accelerator: Accelerator) -> dict[Size | None, str]:
    """The key of the empty prompt at each size, which is then in the cache."""
    found = {}
    for size, at in encoded_at(items, cache.generator).items():
        with cache.generator.working_at(at):
            found[size] = cache.prompt_key("")
            encode_prompts({found[size]: ""}, cache, accelerator)
    return found


def of_one_size(items: list[EncodedPair], most: int) -> list[list[EncodedPair]]:
    """The items in parts of at most `most` that can share a batch, otherwise in their order."""
    sizes = dict.fromkeys(item.size for item in items)
    groups = [[item for item in items if item.size == size] for size in sizes]
    return [group[start:start + most] for group in groups for start in range(0, len(group), most)]


def encode_media(pair: PreferencePair, cache: EncodingCache) -> EncodedPair:
    """The pair with its media in the cache; they are decoded only where it does not know them.

    Raises UserError for a pair that cannot be read.
    """
    identities = pair.identity()
    found = [cache.known(identity) for identity in identities]
    pair.source_images()  # read where a broken one can still be left out
    check_takes_sources(cache.generator, [pair.asked], pair.where)
    if not all(known and cache.holds([known.key]) for known in found):
        media = pair.media(cache.generator.shape.frames)
        cache.generator.check_media(media, pair.where)
        found = [KnownMedia(cache.media_key(each), cache.generator.speed_of(each)) for each in media]
        cache.add_media({known.key: each for known, each in zip(found, media, strict=True)})
        for identity, known in zip(identities, found, strict=True):
            cache.remember(identity, known)
    keys = [known.key for known in found]
    return EncodedPair(pair.asked, cache.prompt_key(pair.asked), keys[0], keys[1] if len(keys) > 1 else None,
                       pair.where, pair.strength, pair.chosen_reward, pair.rejected_reward, pair.chance,
                       max((known.speed for known in found), key=how_wrong), pair.user,
                       tuple((text, cache.prompt_key(text)) for text in pair.asked_otherwise), pair.origin,
                       desirable=pair.desirable, rejected_prompt=pair.rejected_asked and (
                           pair.rejected_asked, cache.prompt_key(pair.rejected_asked)), label_margin=pair.label_margin)


def encode_prompts(prompts: dict[str, str], cache: EncodingCache, accelerator: Accelerator) -> None:
    """Put prompts, by key, into the cache, each in one process alone; afterwards all processes know what is cached."""
    cache.find_shared()
    mine = [key for key in sorted(prompts)[accelerator.process_index::accelerator.num_processes]
            if not cache.holds([key])]
    for key in tqdm(mine, desc="encoding prompts", unit="prompt", disable=not accelerator.is_main_process or not mine):
        cache.add_prompts({key: prompts[key]})
        doing()
    cache.share()
    accelerator.wait_for_everyone()
    cache.find_shared()


def check_items(source: str, items: list[EncodedPair], broken: BrokenRows, compared: bool) -> None:
    """Raise UserError when too many pairs could not be read, or none has two different images to compare."""
    broken.check(len(items))
    if compared:
        check_different(f"data {source}", len(items), sum(item.chosen_key == item.rejected_key for item in items))


def standardised(items: list[EncodedPair], within: str) -> list[EncodedPair]:
    """The items with rewards shifted to mean 0 and scaled to std 1, over the data set or within each prompt, or within
    `range`: from 0 for the set's lowest to 1 for its highest; `none` and `win_rates` stay as they are. Raises UserError
    for items without rewards, and for win rates that are none."""
    check = check_win_rates if within == "win_rates" else check_rewarded
    for item in items:
        check(item)
    if within in ("none", "win_rates"):
        return items
    groups: dict[str, list[float]] = {}
    for item in items:
        groups.setdefault(item.prompt if within == "prompt" else "", []).extend(
            (item.chosen_reward, item.rejected_reward))
    ends = within == "range"
    statistics = {k: (min(v) if ends else torch.tensor(v).mean().item(),
                      max(max(v) - min(v) if ends else torch.tensor(v).std().item(), 1e-8)) for k, v in groups.items()}

    def scaled(item: EncodedPair, value: float) -> float:
        shift, scale = statistics[item.prompt if within == "prompt" else ""]
        return (value - shift) / scale

    return [replace(item, chosen_reward=scaled(item, item.chosen_reward),
                    rejected_reward=scaled(item, item.rejected_reward)) for item in items]


def digest_entry(item: EncodedPair) -> tuple:
    """What identifies a pair for a resumed run; fields that most data lack add nothing, as in earlier runs."""
    known = [item.user] if item.user else []
    uncertain = [item.chance] if item.chance < 1 else []
    several = [(item.origin, [content_of(text) for text, _ in item.captions])] if item.captions or item.origin else []
    asked = [item.asking] if item.asking else []
    labelled = [] if item.desirable is None else [item.desirable]
    unlike = [content_of(item.rejected_prompt[0])] if item.rejected_prompt else []
    return (content_of(item.prompt), item.chosen_key, item.rejected_key, item.strength, *known, *uncertain, *several,
            *asked, *labelled, *unlike)


def load_batch(items: list[EncodedPair], cache: EncodingCache, prompt_keys: list[tuple[str, str]] | None = None,
               fits: bool = False, beside: Conditioning | None = None) -> PairBatch:
    """Read a batch from the cache; `prompt_keys`, of the chosen and the rejected one, replace the items' own (caption
    dropout). fits: with them. beside: what the network is told beside the prompts."""
    def tensor(name: str, dtype: torch.dtype = torch.float32) -> Tensor | None:
        values = [getattr(item, name) for item in items]
        return None if None in values else torch.tensor(values, dtype=dtype)

    chosen, rejected = ([getattr(item, f"{side}_key") for item in items] for side in PAIR_SIDES)
    first, second = map(list, zip(*prompt_keys or [
        (item.prompt_key, (item.rejected_prompt or ("", item.prompt_key))[1]) for item in items], strict=True))
    keys = {"chosen": chosen} if None in rejected else {"chosen": chosen, "rejected": rejected}
    return PairBatch(items, cache.latents(chosen), None if None in rejected else cache.latents(rejected),
                     cache.conditioning(first) | (beside or {}), tensor("strength"),
                     tensor("chosen_reward"), tensor("rejected_reward"), tensor("chance"),
                     {side: cache.fits(each) for side, each in keys.items()} if fits else {},
                     tensor("desirable", torch.bool),
                     cache.conditioning(second) | (beside or {}) if second != first else None)


def untrained_cause(generator: Generator, batch: PairBatch) -> str:
    """Why the loss of an untrained model may not be finite, in words."""
    weight = first_not_finite(generator.denoiser)
    if weight:
        return f", since the model's own weights are not ({weight} first); nothing was learnt yet"
    for name, latents in (("chosen", batch.chosen), ("rejected", batch.rejected)):
        for item, each in zip(batch.items, latents, strict=True) if latents is not None else ():
            if not each.isfinite().all():
                return f", since the VAE's latents of the {name} sample of {item.where} are not"
    for name, embedding in (each for conditioning in batch.conditionings for each in conditioning.items()):
        if not embedding.float().isfinite().all():
            return f", since the text encoder's embeddings of the prompts are not ({name})"
    return " before anything was learnt, so the learning rate is not to blame (model.precision=fp32 usually helps)"


def first_not_finite(network: torch.nn.Module) -> str | None:
    """The name of the first weight that is not finite, or None."""
    return next((name for name, p in network.named_parameters()
                 if not all(part.float().isfinite().all() for part in plain_tensors(p))), None)
