"""AI feedback: sample each prompt several times and let a reward say which images are preferred."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tqdm import tqdm

from visalign.config import FeedbackSettings
from visalign.data.pair_selection import Candidate, Chosen, PairCounts, best_worst, keep
from visalign.data.pareto import Rewarded, calibration_notes, pareto_pairs, standardised_rewards
from visalign.data.preference_pair import PreferencePair, pair_fields
from visalign.data.prompts import read_prompts
from visalign.errors import UserError, notice
from visalign.generators.base import Generator
from visalign.generators.prompt_length import say_what_is_cut
from visalign.media.samples import Sample
from visalign.media.source_images import put_into, sample_of
from visalign.media.video_files import media_file
from visalign.parallel.sharing import ALONE, Processes, doing
from visalign.rewards import Reward, finite_scores
from visalign.sampling.seeds import place_seed
from visalign.sampling.source_check import check_takes_sources


def make_samples(generator: Generator, prompts: list[str], per_prompt: int, *, steps: int, guidance_scale: float,
                 seed: int, label: str, quiet: bool = False, batch_size: int = 32,
                 processes: Processes = ALONE, asking: str | None = None) -> list[Sample]:
    """`per_prompt` samples of each prompt; the i-th of the j-th prompt always has the same seed.

    Processes share whole batches, so that a sample has the same neighbours whatever their number.
    """
    places = [place for start in range(processes.rank * batch_size, len(prompts) * per_prompt,
                                       processes.world * batch_size)
              for place in range(start, min(start + batch_size, len(prompts) * per_prompt))]
    mine = list(samples_at(generator, prompts, per_prompt, places, steps=steps, seed=seed, label=label,
                           guidance_scale=guidance_scale, quiet=quiet or not processes.is_first,
                           batch_size=batch_size, asking=asking))
    return [sample for _, sample in sorted(processes.gather(mine), key=lambda each: each[0])]


def samples_at(generator: Generator, prompts: list[str], per_prompt: int, places: Sequence[int], *, steps: int,
               guidance_scale: float, seed: int, label: str, quiet: bool = False, batch_size: int = 32,
               first: int = 0, asking: str | None = None) -> Iterator[tuple[int, Sample]]:
    """(place, sample) as they are generated; place p is sample p mod per_prompt of prompt p div per_prompt.

    first: the number of the first of `prompts`, where they are part of a list. asking: what each prompt is put into
    before it is sampled (`put_into`); rewards see the prompt itself.
    """
    chosen = [prompts[place // per_prompt - first] for place in places]
    seeds = [place_seed(seed, place) for place in places]
    given = [put_into(asking, prompt) for prompt in chosen]
    numbers = iter(range(len(chosen)))
    check_takes_sources(generator, dict.fromkeys(given), label)
    say_what_is_cut(generator, given, label)
    with tqdm(total=len(chosen), desc=label, unit="sample", disable=quiet) as progress:
        for batch in generator.sample(given, seeds, steps=steps, guidance_scale=guidance_scale,
                                      batch_size=batch_size):
            for media in batch:
                k = next(numbers)
                yield places[k], sample_of(chosen[k], generator.text_of(chosen[k]), media, seeds[k])
            progress.update(len(batch))
            doing()


def rank_pairs(samples: list[Sample], scores: list[float], pairs_per_prompt: int) -> list[PreferencePair]:
    """Best against worst, second best against second worst, ... within each prompt; equal scores make no pair."""
    groups: dict[str, list[Candidate]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.source_prompt, []).append(Candidate(i, scores[i]))
    return kept_pairs(samples, {prompt: best_worst(candidates, pairs_per_prompt)
                                for prompt, candidates in groups.items()})


def traded_pairs(samples: list[Sample], scores: list[list[float]], names: list[str], settings: FeedbackSettings,
                 seed: int) -> list[PreferencePair]:
    """Best trade-offs between rewards against the worst within each prompt (CaPO); scores: of the samples, by reward.

    Raises UserError for a reward that cannot be standardised.
    """
    groups: dict[str, dict[int, tuple[float, ...]]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.source_prompt, {})[i] = tuple(each[i] for each in scores)
    compared: Rewarded = standardised_rewards(groups, names) if settings.standardise else groups
    for note in calibration_notes(compared, names, "data.feedback.standardise"):
        notice(f"data.feedback: {note}")
    return kept_pairs(samples, {prompt: pareto_pairs(points, settings.pairs_per_prompt, seed)
                                for prompt, points in compared.items()})


def kept_pairs(samples: list[Sample], proposed: dict[str, list[Chosen]]) -> list[PreferencePair]:
    """Those of each prompt's pairs whose first sample scores more."""
    counts = PairCounts()
    return [PreferencePair(chosen=media_file(samples[a.number].media, lossless=True)[1],
                           rejected=media_file(samples[b.number].media, lossless=True)[1],
                           where=f"prompt '{prompt}', seeds {samples[a.number].seed} and {samples[b.number].seed}",
                           strength=a.score - b.score, chosen_reward=a.score, rejected_reward=b.score,
                           **pair_fields(samples[a.number]))
            for prompt, pairs in proposed.items() for a, b in keep(pairs, counts)]


def feedback_pairs(generator: Generator, settings: FeedbackSettings, rewards: Sequence[Reward], seed: int,
                   quiet: bool = False, processes: Processes = ALONE) -> list[PreferencePair]:
    """Pairs of the generator's own samples, scored by `rewards`; processes share the sampling.

    Raises UserError when the rewards see no difference anywhere.
    """
    prompts = read_prompts(settings.prompts, settings.max_prompts)
    samples = make_samples(generator, prompts, settings.samples_per_prompt, steps=settings.steps,
                           guidance_scale=settings.guidance_scale, seed=seed, label="sampling pairs", quiet=quiet,
                           processes=processes)
    scores = processes.told_by_first(lambda: [finite_scores(reward, samples).tolist() for reward in rewards])
    names = [reward.name for reward in rewards]
    pairs = traded_pairs(samples, scores, names, settings, seed) if settings.strategy == "pareto" else rank_pairs(
        samples, scores[0], settings.pairs_per_prompt)
    if not pairs and len(rewards) > 1:
        raise UserError(f"data.feedback: by {' and '.join(names)} no sample of a prompt is a better trade-off than "
                        "another, so there is no preference to learn; take fewer rewards, or more samples_per_prompt")
    if not pairs:
        raise UserError(f"data.feedback: {names[0]} scored all samples of each prompt alike, so there is no "
                        "preference to learn")
    return pairs


def rescored(pairs: Iterator[PreferencePair], reward: Reward, rerank: bool, frames: int | None,
           on_broken: Callable[[UserError], None], batch: int = 32) -> Iterator[PreferencePair]:
    """The same pairs with both rewards filled in; with `rerank`, flipped where the reward disagrees.

    A chance belongs to the label that came with it, and is dropped where the reward's label takes its place.
    on_broken: called for a pair that cannot be read, which is then left out.
    """
    held: list[PreferencePair] = []
    for pair in pairs:
        held.append(pair)
        if len(held) == batch:
            yield from _score(held, reward, rerank, frames, on_broken)
            held = []
    yield from _score(held, reward, rerank, frames, on_broken)


def _score(held: list[PreferencePair], reward: Reward, rerank: bool, frames: int | None,
           on_broken: Callable[[UserError], None]) -> Iterator[PreferencePair]:
    pairs, samples = [], []
    for pair in held:
        try:
            both = [pair.sample(each) for each in pair.media(frames)]
        except UserError as error:
            on_broken(error)
            continue
        pairs.append(pair)
        samples += both
    if not pairs:
        return
    scores = finite_scores(reward, samples).view(-1, 2).tolist()
    for pair, (chosen, rejected) in zip(pairs, scores, strict=True):
        pair = replace(pair, chance=1.0) if rerank else pair
        if rerank and chosen < rejected:
            yield replace(pair.swapped(), chosen_reward=rejected, rejected_reward=chosen)
        else:
            yield replace(pair, chosen_reward=chosen, rejected_reward=rejected)
