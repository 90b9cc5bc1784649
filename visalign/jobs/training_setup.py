"""What each loop checks before anything is loaded, and how its trainer is put together."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from accelerate import Accelerator
from tqdm import tqdm

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import build_advantage, build_objective
from visalign.config.sources import shares_of
from visalign.data.bucket_counts import check_sizes, count_sizes
from visalign.data.pair_tables import read_saved_pairs, save_pairs
from visalign.data.preferences import is_local, read_pairs
from visalign.data.prompts import read_prompts
from visalign.data.seed_preferences import read_seed_preferences
from visalign.data.thumbs import check_both_kinds
from visalign.data.usable import BrokenRows, FoundPairs, check_pair_sources
from visalign.errors import UserError, notice
from visalign.generators import Generator, locate_model
from visalign.generators.bucket_sizes import buckets_of, check_buckets
from visalign.generators.files.sketching import explained, sketch
from visalign.generators.prompt_length import say_what_is_cut
from visalign.media.fitting import Size
from visalign.media.source_images import content_of
from visalign.parallel.ray_cluster import check_ray
from visalign.parallel.sharing import Processes
from visalign.processes import PROCESSES
from visalign.rewards import check_sources_given, for_modality, load_reward
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.feedback import feedback_pairs, rescored
from visalign.sampling.source_check import check_takes_sources
from visalign.storage.run_folder import RunFolder
from visalign.trainers.offline.encoded_pairs import check_items, digest_entry, encode_pairs, standardised
from visalign.trainers.offline.loop import OfflineTrainer
from visalign.trainers.offline.sides import mixture_lines, split_items
from visalign.trainers.online.epoch_shape import check_arithmetic
from visalign.trainers.online.epochs import PromptTask, prompt_tasks_of
from visalign.trainers.online.loop import OnlineTrainer
from visalign.trainers.online.scoring import RewardSet
from visalign.trainers.online.step_selection import check_noise
from visalign.trainers.order import check_holdout, keep_digest


class Loop(NamedTuple):
    """check(config, family) raises UserError for what is wrong and gives what is known of the data; build(...) gives
    a GeneratorTrainer and what it learns from, counted.

    The trainer has `held_out` pairs where the prompts of the data were not known before.
    """

    check: Callable[..., FoundPairs]
    build: Callable[..., tuple]


def check_offline_steps(config: OfflineConfig) -> None:
    """Raise UserError when steps are asked for that several processes, or one side of a pair, do not have."""
    if config.optim.fused_backward and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("optim.fused_backward: is for one process, since several add their gradients up; leave it out "
                        "or start one process")
    objective = build_objective(config.objective)
    if config.optim.fused_backward and objective.passes.with_gradient > 1:
        raise UserError(f"optim.fused_backward: objective {config.objective['name']} adds the gradients of "
                        f"{objective.passes.with_gradient} states of each sample up, so that none is given back before "
                        "the last; leave it out")
    if config.train.one_side_at_a_time and "rejected" not in objective.needs:
        raise UserError(f"train.one_side_at_a_time: objective {config.objective['name']} learns from one sample of a "
                        "prompt, so there are no two sides; leave it out")


def check_guided(config: OfflineConfig, family: type[Generator]) -> None:
    """Raise UserError when the objective guides a model whose prompts have source images, which an empty one lacks."""
    if family.sources is not None and build_objective(config.objective).guided:
        raise UserError(f"objective.guidance_scale: {config.objective['name']} guides away from the empty prompt, and "
                        f"each prompt of {family.pipeline_class} has source images; set objective.guidance_scale=1")


def check_margin_of(config: OfflineConfig) -> None:
    """Raise UserError when objective.margin_of names another reward than the pairs carry."""
    scored = config.data.score_with or (config.data.feedback and config.data.feedback.reward)
    known = scored if isinstance(scored, str) else "reward"
    other = next((name for name in getattr(build_objective(config.objective), "margin_of", None) or ()
                  if name != known), None)
    if other:
        raise UserError(f"objective.margin_of names {other}, but the reward that the pairs carry is {known}; name that "
                        "one, or set data.score_with to the reward that the margin is to be of")


def check_goals(config: OfflineConfig) -> None:
    """Raise UserError when the objective weighs the rewards that are goals, of which none is better than another."""
    objective, named = build_objective(config.objective), f"objective {config.objective['name']}"
    if config.data.goals and ("rewards" in objective.needs or getattr(objective, "margin_of", None)):
        why = "takes a margin by reward (margin_of)" if getattr(objective, "margin_of", None) else \
            "learns most from samples of high reward"
        raise UserError(f"data.goals: {named} {why}, and with goals low rewards are asked for as well; leave one of "
                        "them out")


def check_swap(config: OfflineConfig) -> None:
    """Raise UserError when the objective learns the same from a pair whichever sample is the chosen one, or from the
    chosen one alone."""
    objective, named = build_objective(config.objective), f"data.swap: objective {config.objective['name']}"
    if config.data.swap and "rejected" not in objective.needs:
        raise UserError(f"{named} compares no two samples of a prompt, so there is nothing to swap; take one that "
                        "does, such as diffusion_dpo or flow_dpo")
    if config.data.swap and "rewards" in objective.needs and not getattr(objective, "margin_of", None):
        raise UserError(f"{named} learns from each sample's own reward, so a swap changes nothing; take one that "
                        "compares, such as diffusion_dpo or flow_dpo")


def check_labels(config: OfflineConfig) -> None:
    """Raise UserError for settings of labels without an objective that learns from them, and for what such an
    objective cannot use."""
    data, train, named = config.data, config.train, f"objective {config.objective['name']}"
    if not reads_labels(config):
        unused = next((name for name in ("good_from", "positive_ratio") if getattr(data, name) is not None), None)
        if unused:
            raise UserError(f"data.{unused}: {named} does not learn from samples that are good or bad (diffusion_kto "
                            "does); leave it out")
        return
    scored = next((name for name in ("score_with", "goals") if getattr(data, name)), None)
    if scored:
        raise UserError(f"data.{scored}: compares two samples of a prompt, and {named} learns from each alone; leave "
                        "it out")
    if any(source.prior for source in data.sources or ()):
        raise UserError(f"data.sources: a prior set is of samples to imitate, and {named} learns from good ones and "
                        "bad ones; leave prior out, and give its samples labels")
    if train.batch_size * int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise UserError(f"train.batch_size 1: {named} sees each sample against the mean of its batch, over all "
                        "processes; take at least 2, better 8 or more")


def check_offline(config: OfflineConfig, family: type[Generator]) -> FoundPairs:
    feedback = config.data.feedback
    check_offline_steps(config)
    check_guided(config, family)
    check_margin_of(config)
    check_goals(config)
    check_swap(config)
    check_labels(config)
    check_buckets(config.data, family)
    if not (feedback or config.data.path or config.data.sources):
        raise UserError("data.path: name the data to learn from with data.path=FILE_OR_FOLDER, or let the model make "
                        "pairs with data.feedback")
    prior = next((source.path for source in config.data.sources or () if source.prior), None)
    if prior and compares(config):
        raise UserError(f"data.sources: {prior} is a prior set of single images, which objective.name=sft learns from; "
                        f"{config.objective['name']} compares two of a prompt")
    rewards = [for_modality(load_reward(reward), family.modality)
               for reward in filter(None, (config.data.score_with, feedback and feedback.reward))]
    if feedback:
        prompts = read_prompts(feedback.prompts, feedback.max_prompts)
        family.check_prompts(prompts, "data.feedback.prompts")
        check_sources_given(rewards, prompts, "data.feedback.prompts")
        return FoundPairs(prompts, [])
    found = check_pair_sources(config.data, compares(config), reads_labels(config))
    family.check_prompts(found.prompts, f"data {config.data.named}")
    check_sources_given(rewards, found.prompts, f"data {config.data.named}")
    check_holdout(found.prompts, config.data.holdout, config.eval.listed)
    images_by_size(config)
    return found


def images_by_size(config: OfflineConfig) -> dict[Size | None, int]:
    """How many images each bucket gets, by the sizes of the chosen ones, None those that are too small.

    {} without buckets, and where images are not at hand. Raises UserError where a size is impossible, or none gets any.
    """
    if config.data.buckets is None:
        return {}
    with explained(config.model.source):
        buckets = buckets_of(config.data, sketch(locate_model(config.model), config.model))
    if config.data.feedback or not all(map(is_local, config.data.each)):
        return {}
    pairs = (replace(pair, repeats=pair.repeats * config.data.repeats(place))
             for place, source in enumerate(config.data.each)
             for pair in read_pairs(source, on_bad_row=lambda error: None, again=True, **wanted(config)))
    counts = count_sizes(tqdm(pairs, desc="reading the images' sizes", unit="pair", leave=False, delay=2), buckets)
    check_sizes(counts, buckets, config.train.batch_size * int(os.environ.get("WORLD_SIZE", "1")))
    return counts


def compares(config: OfflineConfig) -> bool:
    """Whether a run needs two media of a prompt: its objective, or the reward that scores both."""
    return "rejected" in build_objective(config.objective).needs or bool(config.data.score_with)


def reads_labels(config: OfflineConfig) -> bool:
    """Whether a run learns from single samples that are good or bad."""
    return "desirable" in build_objective(config.objective).needs


def wanted(config: OfflineConfig) -> dict[str, Any]:
    """What `read_pairs` is told of a run."""
    return {"compared": compares(config), "labelled": reads_labels(config)}


def build_offline(config: OfflineConfig, generator: Generator, run: RunFolder, accelerator: Accelerator):
    cache = EncodingCache(config.data.cache, generator, config.data.cache_dtype)
    objective, broken = build_objective(config.objective), BrokenRows(config.data)
    pairs = prepare_pairs(config, generator, run, accelerator, broken)
    items = encode_pairs(pairs, cache, accelerator, broken, buckets_of(config.data, generator), goals=config.goals)
    check_items(" ".join(config.taught_by()), items, broken, "rejected" in objective.needs)
    mixed = [(share, source.loss_weight, source.prior) for source, share in zip(
        config.data.sources or (), shares_of(config.data.sources or ()), strict=True)]
    keep_digest(run, [digest_entry(item) for item in items], "pairs", mixed)
    if accelerator.is_main_process:
        broken.write(run.path / "skipped.jsonl")
    if "rewards" in objective.needs:
        items = standardised(items, objective.standardise)
    train_items, held_out = split_items(items, config.data, config.eval.listed)
    labels = Counter(item.desirable for item in train_items) if reads_labels(config) else None
    if labels:
        check_both_kinds(labels, "what is trained on", config.data)
    trainer = OfflineTrainer(config, generator, train_items, held_out, cache, run, accelerator)
    sizes = [sum(item.origin == place for item in train_items) for place in range(len(config.data.each))]
    for line in mixture_lines(config.data, sizes):
        notice(line)
    of_sources = {f"training pairs of {source.path}": size for source, size in
                  zip(config.data.sources or (), sizes, strict=False)}
    return trainer, {"training pairs": len(train_items), "held-out pairs": len(held_out), **of_sources,
                     **{what: count for what, count in (
                         ("good training samples", labels and labels[True]),
                         ("sizes", len({item.size for item in items}) if config.data.buckets else 0),
                         ("rows left out", len(broken.found)),
                         ("pairs of one image twice", sum(i.chosen_key == i.rejected_key for i in items))) if count}}


def prepare_pairs(config: OfflineConfig, generator: Generator, run: RunFolder, accelerator: Accelerator,
                  broken: BrokenRows):
    """The run's pairs as an iterable: read from the user's file, or made once and kept in the run's folder."""
    data = config.data
    if data.feedback:
        file = run.path / "pairs.parquet"
        processes = Processes(accelerator.process_index, accelerator.num_processes)
        if not processes.told_by_first(file.exists):
            reward = for_modality(load_reward(data.feedback.reward, str(accelerator.device)), generator.modality)
            pairs = feedback_pairs(generator, data.feedback, reward, config.train.seed, processes=processes)
            if processes.is_first:
                save_pairs(pairs, file)
        accelerator.wait_for_everyone()
        return read_saved_pairs(file, reads_labels(config))
    pairs = read_pairs(data, on_bad_row=broken.note, again=True, **wanted(config))
    if data.score_with:
        pairs = rescored(pairs, for_modality(load_reward(data.score_with, str(accelerator.device)), generator.modality),
                       data.rerank, generator.shape.frames, broken.note)
    return pairs


def check_online(config: OnlineConfig, family: type[Generator]) -> FoundPairs:
    rollout, prompts = config.rollout, [asked.prompt for asked in read_prompt_tasks(config)]
    check_sampler(config, family)
    check_arithmetic(config, int(os.environ.get("WORLD_SIZE", "1")))
    check_engine(config)
    family.check_prompts(prompts, "rollout.prompts")
    reward_set = RewardSet(config.reward, "cpu", family.modality)
    check_sources_given([term.reward for term in reward_set.terms], prompts, "rollout.prompts")
    rule, objective = build_advantage(config.advantage), build_objective(config.objective, loop="online")
    if rule.gate is not None and rule.gate not in reward_set.names:
        raise UserError(f"advantage.gate {rule.gate}: names no reward; the rewards are {', '.join(reward_set.names)}")
    if objective.view == "steps":
        check_noise(rollout)
    if objective.view == "sampling":
        if rollout.votes:
            raise UserError(f"objective.name {config.objective['name']} needs a reward with a gradient; rollout.votes "
                            "has none")
        if objective.last_steps > rollout.steps:
            raise UserError(f"objective.last_steps {objective.last_steps} are more than rollout.steps {rollout.steps}")
        reward_set.check_differentiable()
    return FoundPairs(prompts, [])


def check_engine(config: OnlineConfig) -> None:
    """Raise UserError when samples cannot be drawn where, or as long before, as the recipe says."""
    rollout, objective = config.rollout, build_objective(config.objective, loop="online")
    if rollout.engine == "local":
        return
    check_ray(f"rollout.engine {rollout.engine}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("rollout.engine ray: one process learns while actors sample; start it without torchrun and "
                        "accelerate, or use rollout.engine=local")
    if rollout.staleness and objective.stale:
        raise UserError(f"rollout.staleness {rollout.staleness}: objective.name {config.objective['name']} cannot "
                        f"learn from an earlier policy's samples, since {objective.stale}; use rollout.staleness=0")


def check_sampler(config: OnlineConfig, family: type[Generator]) -> None:
    """Raise UserError when the sampler is not for this family's process."""
    allowed = PROCESSES[family.process_kind].SAMPLERS
    if config.rollout.sampler not in allowed:
        raise UserError(f"rollout.sampler {config.rollout.sampler} is not for {family.process_kind} models such as "
                        f"{config.model.source}; use one of {', '.join(allowed)}")


def read_prompt_tasks(config: OnlineConfig) -> list[PromptTask]:
    """The prompts to sample, or those that were voted on, but for those that the run measures on.

    Raises UserError when none is left.
    """
    rollout = config.rollout
    every = prompt_tasks_of(read_seed_preferences(rollout.votes)) if rollout.votes else [
        PromptTask(prompt) for prompt in rollout_prompts(config)]
    measured = frozenset(map(content_of, config.eval.listed))
    asked = [each for each in every if content_of(each.prompt) not in measured]
    if not asked:
        raise UserError(f"eval.prompts: names all prompts of {rollout.votes or rollout.prompts}, so none is left to "
                        "train on")
    return asked


def rollout_prompts(config: OnlineConfig) -> list[str]:
    """The prompts that may be sampled. Raises UserError when nobody names any."""
    if config.rollout.prompts is None:
        raise UserError("rollout.prompts: name the prompts to sample with rollout.prompts=FILE, one per line "
                        "(emoji:train or videos:train for the embedded models)")
    return read_prompts(config.rollout.prompts, config.rollout.max_prompts)


def build_online(config: OnlineConfig, generator: Generator, run: RunFolder, accelerator: Accelerator):
    asked = read_prompt_tasks(config)
    keep_digest(run, [(content_of(each.prompt), each.seeds) for each in asked],
                "votes" if config.rollout.votes else "prompts")
    check_takes_sources(generator, (each.prompt for each in asked), "rollout.prompts")
    say_what_is_cut(generator, [each.prompt for each in asked], "training prompts")
    reward_set = RewardSet(config.reward, str(accelerator.device), generator.modality) if config.reward.models else None
    trainer = OnlineTrainer(config, generator, asked, reward_set, run, accelerator)
    what = "votes" if config.rollout.votes else "training prompts"
    return trainer, {what: len(asked), "samples an epoch": trainer.epochs.size}


LOOPS = {"offline": Loop(check_offline, build_offline), "online": Loop(check_online, build_online)}
