"""What the offline loop checks before anything is loaded: settings, and every row of its data."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from visalign.config import OfflineConfig
from visalign.config.fitting import recipes_for
from visalign.config.load import build_objective
from visalign.data.bucket_counts import check_sizes, count_sizes
from visalign.data.pareto import check_distinct, check_win_rates
from visalign.data.preference_pair import PreferencePair
from visalign.data.preferences import is_local, read_pairs
from visalign.data.prompts import read_prompts
from visalign.data.usable import FoundPairs, check_pair_sources, check_rewarded
from visalign.errors import UserError
from visalign.generators import Generator, locate_model
from visalign.generators.bucket_sizes import buckets_of, check_buckets
from visalign.generators.files.sketching import explained, sketch
from visalign.media.fitting import Size
from visalign.media.photographs import read_photographs
from visalign.media.source_images import content_of
from visalign.rewards import Reward, check_sources_given, for_modality, load_reward
from visalign.rewards.users import check_user_features
from visalign.sampling.subject import check_scale
from visalign.trainers.order import check_holdout, check_watched, is_held_out


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
    if config.train.one_side_at_a_time and "rejected" not in objective.sides:
        raise UserError(f"train.one_side_at_a_time: objective {config.objective['name']} learns from one sample of a "
                        "prompt, so there are no two sides; leave it out")


def check_guided(config: OfflineConfig, family: type[Generator]) -> None:
    """Raise UserError when the objective guides a model whose prompts have source images, which an empty one lacks."""
    if family.sources is not None and build_objective(config.objective).guided:
        raise UserError(f"objective.guidance_scale: {config.objective['name']} guides away from the empty prompt, and "
                        f"each prompt of {family.pipeline_class} has source images; set objective.guidance_scale=1")


def check_margin_of(config: OfflineConfig) -> None:
    """Raise UserError when objective.margin_of names another reward than the pairs carry."""
    feedback = config.data.feedback
    scored = config.data.score_with or (feedback and feedback.strategy != "pareto" and feedback.reward)
    known = scored if isinstance(scored, str) else "reward"
    other = next((name for name in getattr(build_objective(config.objective), "margin_of", None) or ()
                  if name != known), None)
    if other:
        raise UserError(f"objective.margin_of names {other}, but the reward that the pairs carry is {known}; name that "
                        "one, or set data.score_with to the reward that the margin is to be of")


_WEIGHS = {"margin_of": "takes a margin by reward (margin_of)",
           "smooth": "lets pairs count by how far their rewards lie apart (smooth)"}
"""What an objective that compares does with rewards, by its setting."""


def check_goals(config: OfflineConfig) -> None:
    """Raise UserError when the objective weighs the rewards that are goals, of which none is better than another."""
    objective, named = build_objective(config.objective), f"objective {config.objective['name']}"
    if config.data.goals and ("rewards" in objective.needs or getattr(objective, "margin_of", None)):
        why = next((words for name, words in _WEIGHS.items() if getattr(objective, name, None)),
                   "learns most from samples of high reward")
        raise UserError(f"data.goals: {named} {why}, and with goals low rewards are asked for as well; leave one of "
                        "them out")


def check_whose(config: OfflineConfig) -> None:
    """Raise UserError when the objective does not compare the two samples by which a user is known, or the model that
    looks at them is none."""
    if config.data.users is None:
        return
    if "rejected" not in build_objective(config.objective).needs:
        raise UserError(f"data.users: objective {config.objective['name']} compares no two samples of a prompt, so "
                        "nobody prefers anything; take one that does, such as diffusion_dpo or flow_dpo")
    check_user_features(config.model.user_features)


def check_link(config: OfflineConfig) -> None:
    """Raise UserError when objective.link=calibrated is to learn from what are no win rates."""
    data = config.data
    raw = (data.feedback and data.feedback.strategy != "pareto" and f"data.feedback.strategy {data.feedback.strategy}"
           ) or (data.score_with and "data.score_with")
    if takes_win_rates(config) and raw:
        raise UserError(f"objective.link calibrated: needs how often each sample wins over others of its prompt, and "
                        f"{raw} gives plain rewards; make the pairs with data.feedback.strategy=pareto or `visalign "
                        "data pairs --strategy pareto`")


def check_strength(config: OfflineConfig) -> None:
    """Raise UserError when data.strength turns or doubts labels from which the objective does not learn, or whose doubt
    it counts already."""
    strength, objective = config.data.strength, build_objective(config.objective)
    if strength is None:
        return
    named = f"data.strength: objective {config.objective['name']}"
    if "rejected" not in objective.needs:
        raise UserError(f"{named} compares no two samples of a prompt, so no label is to be turned or doubted; take "
                        "one that does, such as diffusion_dpo or flow_dpo")
    if strength.flip is not None and "rewards" in objective.needs and not getattr(objective, "margin_of", None):
        raise UserError(f"{named} learns from each sample's own reward, so that turning a pair changes nothing; leave "
                        "data.strength.flip out")
    if (strength.soft or strength.smooth) and getattr(objective, "soft_labels", None):
        raise UserError("objective.soft_labels: doubts labels by the margin of the reward that data.strength takes "
                        "already; leave one of them out")


def takes_win_rates(config: OfflineConfig) -> bool:
    """Whether the objective regresses to the win rates that pairs carry."""
    return getattr(build_objective(config.objective), "standardise", "") == "win_rates"


def check_swap(config: OfflineConfig) -> None:
    """Raise UserError when the objective learns the same from a pair whichever sample is the chosen one, or from the
    chosen one alone."""
    objective, named = build_objective(config.objective), f"data.swap: objective {config.objective['name']}"
    if config.data.swap and "rejected" not in objective.needs:
        raise UserError(f"{named} compares no two samples of a prompt, so there is nothing to swap; take one that "
                        "does, such as diffusion_dpo or flow_dpo: the recipe sd15_npo")
    if config.data.swap and "rewards" in objective.needs and not getattr(objective, "margin_of", None):
        raise UserError(f"{named} learns from each sample's own reward, so a swap changes nothing; take one that "
                        "compares, such as diffusion_dpo or flow_dpo: the recipe sd15_npo")


def check_labels(config: OfflineConfig) -> None:
    """Raise UserError for settings of labels without an objective that learns from them, and for what such an
    objective cannot use."""
    data, train, named = config.data, config.train, f"objective {config.objective['name']}"
    if not reads_labels(config):
        unused = next((name for name in ("good_from", "positive_ratio") if getattr(data, name) is not None), None)
        if unused:
            raise UserError(f"data.{unused}: {named} does not learn from samples that are good or bad (diffusion_kto "
                            f"does: {recipes_for('thumbs')}); leave it out")
        return
    scored = next((name for name in ("score_with", "goals") if getattr(data, name)), None)
    if scored:
        raise UserError(f"data.{scored}: compares two samples of a prompt, and {named} learns from each alone; leave "
                        f"it out, or take one that compares: {recipes_for('pairs')}")
    if any(source.prior for source in data.sources or ()):
        raise UserError(f"data.sources: a prior set is of samples to imitate, and {named} learns from good ones and "
                        "bad ones; leave prior out, and give its samples labels")
    if train.batch_size * int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise UserError(f"train.batch_size 1: {named} sees each sample against the mean of its batch, over all "
                        "processes; take at least 2, better 8 or more")


def check_own(config: OfflineConfig, family: type[Generator]) -> None:
    """Raise UserError for earlier selves that nobody is compared with, and for what does not go with them."""
    objective, named = build_objective(config.objective), f"objective {config.objective['name']}"
    if "own" not in objective.needs:
        if config.data.own:
            raise UserError(f"data.own: {named} learns from no samples of earlier selves (seppo does); leave it out")
        return
    if config.data.goals:
        raise UserError(f"data.goals: asks for the score of either sample of a pair, and {named} takes each as better "
                        "than what an earlier self makes, whatever its score; leave one of them out")
    if config.model.reference != "start":
        raise UserError(f"model.reference {config.model.reference}: {named} compares with earlier selves of the run, "
                        "the first of which is the model as training starts; leave it out")
    if family.sources is not None and config.data.selves.guidance_scale != 1:
        raise UserError(f"data.own.guidance_scale: guides away from the empty prompt, and each prompt of "
                        f"{family.pipeline_class} has source images; set data.own.guidance_scale=1")


def check_shared_noise(config: OfflineConfig) -> None:
    """Raise UserError where both samples of a pair shall have their own time and noise, and the objective has one time,
    or takes them otherwise."""
    objective, named = build_objective(config.objective), f"objective {config.objective['name']}"
    if config.data.shared_noise:
        return
    if "rejected" not in objective.needs or objective.states != "noised":
        why = "learns from one sample of a prompt" if "rejected" not in objective.needs else \
            "does not compare samples at noise that is drawn"
        raise UserError(f"data.shared_noise: {named} {why}; leave it out")
    if getattr(objective, "weighting", "constant") != "constant":
        raise UserError(f"data.shared_noise: objective.weighting {objective.weighting} weighs a pair by its time, and "
                        "each sample would have its own; set objective.weighting=constant")


def check_subject(config: OfflineConfig, family: type[Generator], reward: Reward) -> FoundPairs:
    """What is known of a subject's pairs. Raises UserError for photographs, prompts and rewards that make none."""
    subject, name = config.data.subject, config.objective["name"]
    if family.modality != "image":
        raise UserError(f"data.subject: photographs are learnt by models of images, and {config.model.source} "
                        f"makes {family.modality}s")
    if "rejected" not in build_objective(config.objective).needs:
        raise UserError(f"data.subject: pairs photographs with images of the model's own, and objective {name} "
                        "learns from single samples; take rpo_subject, or for photographs alone the recipe subject_sft")
    photographs = read_photographs(subject.photos, "data.subject.photos")
    prompts = read_prompts(subject.prompts, subject.max_prompts)
    family.check_prompts([*subject.captions, *prompts], "data.subject.prompts")
    check_sources_given([reward], prompts, "data.subject.prompts")
    check_scale(reward)
    made = len(prompts) * subject.samples_per_prompt
    return FoundPairs(list(subject.captions), [], len(photographs) * made * len(subject.captions),
                      len({*subject.captions, *prompts}))


def check_offline(config: OfflineConfig, family: type[Generator]) -> FoundPairs:
    feedback, subject = config.data.feedback, config.data.subject
    check_offline_steps(config)
    check_shared_noise(config)
    check_guided(config, family)
    check_margin_of(config)
    check_goals(config)
    check_swap(config)
    check_whose(config)
    check_link(config)
    check_strength(config)
    check_labels(config)
    check_own(config, family)
    check_buckets(config.data, family)
    if not (feedback or subject or config.data.path or config.data.sources):
        raise UserError("data.path: name the data to learn from with data.path=FILE_OR_FOLDER, or let the model make "
                        "pairs with data.feedback, as the recipe ai_feedback does; which recipe fits your data says "
                        "`visalign advise DATA`")
    prior = next((source.path for source in config.data.sources or () if source.prior), None)
    if prior and "own" in build_objective(config.objective).needs:
        raise UserError(f"data.sources: {prior} is a prior set, to be imitated, and {config.objective['name']} sets "
                        "each sample against one of the run's own; leave prior out, or take objective.name=sft")
    if prior and compares(config):
        raise UserError(f"data.sources: {prior} is a prior set of single images, which objective.name=sft learns from "
                        f"(the recipe subject_sft); {config.objective['name']} compares two of a prompt")
    rewards = [for_modality(load_reward(reward), family.modality)
               for reward in filter(None, (config.data.score_with, subject and subject.reward,
                                           *(feedback.rewards if feedback else ())))]
    if subject:
        return check_subject(config, family, rewards[0])
    if feedback:
        check_distinct(rewards)
        prompts = read_prompts(feedback.prompts, feedback.max_prompts)
        family.check_prompts(prompts, "data.feedback.prompts")
        check_sources_given(rewards, prompts, "data.feedback.prompts")
        return FoundPairs(prompts, [])
    found = check_pair_sources(config.data, compares(config), reads_labels(config), what_is_asked(config))
    family.check_prompts(found.prompts, f"data {config.data.named}")
    check_sources_given(rewards, found.prompts, f"data {config.data.named}")
    check_holdout(found.prompts, config.data.holdout, config.eval.listed)
    if config.watches_pairs:
        known = frozenset(map(content_of, config.eval.listed))
        check_watched(any(is_held_out(prompt, config.data.holdout, known) for prompt in found.prompts))
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
    if config.data.feedback or config.data.subject or not all(map(is_local, config.data.each)):
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


def what_is_asked(config: OfflineConfig) -> Callable[[PreferencePair], None] | None:
    """What raises UserError for a pair without the rewards that the run learns from, nothing else scoring it."""
    if takes_win_rates(config):
        return check_win_rates
    rewarded = "rewards" in build_objective(config.objective).needs and not config.data.score_with
    return check_rewarded if rewarded else None


def wanted(config: OfflineConfig) -> dict[str, Any]:
    """What `read_pairs` is told of a run."""
    return {"compared": compares(config), "labelled": reads_labels(config)}
