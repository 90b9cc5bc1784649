"""What each loop checks before anything is loaded, and how its trainer is put together."""

import os
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from accelerate import Accelerator

from visalign.config import OfflineConfig, OnlineConfig
from visalign.config.load import build_advantage, build_objective
from visalign.config.sources import shares_of
from visalign.data.label_strength import smoothed
from visalign.data.pair_tables import read_saved_pairs, save_pairs
from visalign.data.preferences import read_pairs
from visalign.data.prompts import read_prompts
from visalign.data.seed_preferences import read_seed_preferences
from visalign.data.thumbs import check_both_kinds
from visalign.data.usable import BrokenRows, FoundPairs
from visalign.errors import UserError, notice
from visalign.generators import Generator
from visalign.generators.bucket_sizes import buckets_of
from visalign.generators.prompt_length import say_what_is_cut
from visalign.guidance.network import digest_of_guide
from visalign.jobs.advantage_checks import check_advantage_rule
from visalign.jobs.branching import check_branching
from visalign.jobs.offline_checks import check_offline, reads_labels, wanted
from visalign.jobs.rollout_guide import check_rollout_guide
from visalign.media.source_images import content_of
from visalign.parallel.ray_cluster import check_ray
from visalign.parallel.sharing import Processes
from visalign.processes import PROCESSES
from visalign.rewards import check_sources_given, for_modality, load_reward
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.feedback import feedback_pairs, rescored
from visalign.sampling.source_check import check_takes_sources
from visalign.sampling.subject import subject_pairs
from visalign.storage.run_folder import RunFolder
from visalign.trainers.offline.encoded_pairs import check_items, digest_entry, encode_pairs, standardised
from visalign.trainers.offline.loop import OfflineTrainer
from visalign.trainers.offline.sides import mixture_lines, split_items
from visalign.trainers.offline.users import NOBODY_ASKED, Everybody, Users
from visalign.trainers.online.epoch_shape import check_arithmetic
from visalign.trainers.online.epochs import PromptTask, prompt_tasks_of
from visalign.trainers.online.loop import OnlineTrainer
from visalign.trainers.online.sample_watch import sample_watch
from visalign.trainers.online.scoring import RewardSet
from visalign.trainers.online.step_selection import check_noise
from visalign.trainers.order import keep_digest


class Loop(NamedTuple):
    """check(config, family) raises UserError for what is wrong and gives what is known of the data; build(...) gives
    a GeneratorTrainer and what it learns from, counted.

    The trainer has `held_out` pairs where the prompts of the data were not known before.
    """

    check: Callable[..., FoundPairs]
    build: Callable[..., tuple]


def build_offline(config: OfflineConfig, generator: Generator, run: RunFolder, accelerator: Accelerator):
    cache = EncodingCache(config.data.cache, generator, config.data.cache_dtype)
    objective, broken = build_objective(config.objective), BrokenRows(config.data)
    pairs = prepare_pairs(config, generator, run, accelerator, broken)
    users = users_of(config, cache, accelerator)
    items = encode_pairs(pairs, cache, accelerator, broken, buckets_of(config.data, generator), goals=config.goals,
                         look=users.look)
    check_items(" ".join(config.taught_by()), items, broken, "rejected" in objective.needs)
    if config.data.strength and config.data.strength.smooth:
        items = smoothed(items, config.data.strength.smooth)
    if getattr(objective, "strength_beta", 0) and len({item.strength for item in items}) == 1:
        notice("objective.strength_beta: all pairs have the same strength, so beta grows alike for all of them; give a "
               "column strength, or set data.strength")
    mixed = [(share, source.loss_weight, source.prior) for source, share in zip(
        config.data.sources or (), shares_of(config.data.sources or ()), strict=True)]
    keep_digest(run, [digest_entry(item) for item in items], "pairs", [*mixed, *users.said])
    if accelerator.is_main_process:
        broken.write(run.path / "skipped.jsonl")
    if "rewards" in objective.needs:
        items = standardised(items, objective.standardise)
    train_items, held_out = users.split(*split_items(items, config.data, config.eval.listed))
    labels = Counter(item.desirable for item in train_items) if reads_labels(config) else None
    if labels:
        check_both_kinds(labels, "what is trained on", config.data)
    trainer = OfflineTrainer(config, generator, train_items, held_out, cache, run, accelerator, users)
    users.draw_samples_for(generator, run, accelerator.is_main_process)
    sizes = [sum(item.origin == place for item in train_items) for place in range(len(config.data.each))]
    for line in mixture_lines(config.data, sizes):
        notice(line)
    of_sources = {f"training pairs of {source.path}": size for source, size in
                  zip(config.data.sources or (), sizes, strict=False)}
    return trainer, {"training pairs": len(train_items), "held-out pairs": len(held_out), **of_sources,
                     **{what: count for what, count in (
                         ("good training samples", labels and labels[True]),
                         ("sizes", len({item.size for item in items}) if config.data.buckets else 0),
                         *users.counts.items(), ("rows left out", len(broken.found)),
                         ("pairs of one image twice", sum(i.chosen_key == i.rejected_key for i in items))) if count}}


def users_of(config: OfflineConfig, cache: EncodingCache, accelerator: Accelerator) -> Everybody:
    """What the network is told of whose pairs it learns from; nothing where a run is for everybody."""
    if config.data.users is None:
        return NOBODY_ASKED
    return Users(config.data.users, config.model.user_features, config.data.named, cache, str(accelerator.device),
                 config.train.seed)


def prepare_pairs(config: OfflineConfig, generator: Generator, run: RunFolder, accelerator: Accelerator,
                  broken: BrokenRows):
    """The run's pairs as an iterable: read from the user's file, or made once and kept in the run's folder."""
    data = config.data
    if data.feedback or data.subject:
        file = run.path / "pairs.parquet"
        processes = Processes(accelerator.process_index, accelerator.num_processes)
        if not processes.told_by_first(file.exists):
            rewards = [for_modality(load_reward(reward, str(accelerator.device)), generator.modality)
                       for reward in (data.feedback.rewards if data.feedback else [data.subject.reward])]
            if data.feedback:
                pairs = feedback_pairs(generator, data.feedback, rewards, config.train.seed, processes=processes)
            else:
                pairs = subject_pairs(generator, data.subject, rewards[0], config.train.seed, processes, run.path)
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
    check_rollout_guide(config, family)
    check_branching(config)
    family.check_prompts(prompts, "rollout.prompts")
    reward_set = RewardSet(config.reward, "cpu", family.modality, config.reward.features)
    check_sources_given([term.reward for term in reward_set.terms], prompts, "rollout.prompts")
    rule, objective = build_advantage(config.advantage), build_objective(config.objective, loop="online")
    check_advantage_rule(config, reward_set.names)
    grouped = next((term.name for term in reward_set.terms if term.reward.needs_group), None)
    if grouped and rollout.batch_size % rollout.group_size:
        raise UserError(f"rollout.batch_size {rollout.batch_size} must be a multiple of rollout.group_size "
                        f"{rollout.group_size}: reward {grouped} compares the samples of a group with each other")
    if bool(rule.rarity) != bool(config.reward.features):
        raise UserError("advantage.rarity and reward.features go together: features (tiny-clip, an open_clip folder or "
                        "clip:ARCHITECTURE/TAG) tell kinds of samples apart, and rarity rewards the rare ones")
    if rule.rarity and (rollout.votes or objective.through_reward or not objective.ranks_samples):
        raise UserError(f"advantage.rarity {rule.rarity:g}: adds to the advantages of samples with a reward, and "
                        f"{'votes' if rollout.votes else config.objective['name']} takes none; leave it out")
    if objective.view in ("steps", "siblings"):
        check_noise(rollout)
    if objective.through_reward:
        if rollout.votes:
            raise UserError(f"objective.name {config.objective['name']} needs a reward with a gradient; rollout.votes "
                            "has none")
        if objective.view == "sampling" and objective.last_steps > rollout.steps:
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
                "votes" if config.rollout.votes else "prompts", guide_entry(config))
    check_takes_sources(generator, (each.prompt for each in asked), "rollout.prompts")
    say_what_is_cut(generator, [each.prompt for each in asked], "training prompts")
    device, modality = str(accelerator.device), generator.modality
    reward_set = RewardSet(config.reward, device, modality, config.embedded_by,
                           sample_watch(config, device, modality)) if config.reward.models else None
    trainer = OnlineTrainer(config, generator, asked, reward_set, run, accelerator)
    what = "votes" if config.rollout.votes else "training prompts"
    return trainer, {what: len(asked), "samples an epoch": trainer.epochs.size}


def guide_entry(config: OnlineConfig) -> list[tuple]:
    """What makes a rollout's guide the one that it is; [] without one."""
    guide = config.rollout.guide
    return [] if guide is None else [("guide", digest_of_guide(guide.source))]


LOOPS = {"offline": Loop(check_offline, build_offline), "online": Loop(check_online, build_online)}
