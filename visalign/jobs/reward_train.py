"""`visalign reward train`: from annotations to a unified reward, and the report on held-out ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from visalign.config import GuideConfig, RewardConfig
from visalign.config.load import build_objective
from visalign.config.reward import check_doubts, check_peers
from visalign.data.annotations import Annotation, read_annotations
from visalign.data.augment import counts_of
from visalign.data.label_strength import say_what_was_turned, smoothed
from visalign.errors import UserError, notice
from visalign.generators.hardware.devices import pick_device
from visalign.jobs.augmentation import check_augment, held_out_pairs, learnt_pairs, training_pairs
from visalign.jobs.reward_eval import evaluate_reward
from visalign.parallel.opening import is_sharded_run
from visalign.rewards.joint.heads import Head
from visalign.rewards.joint.network import HEADS
from visalign.rewards.joint.reward import check_backbone, save_reward
from visalign.rewards.joint.start import RewardStart, find_start
from visalign.trainers.opening import opened_run
from visalign.trainers.optim import check_optimizer
from visalign.trainers.order import split_by_prompt
from visalign.trainers.reward.loop import RewardTrainer
from visalign.trainers.stopping import heard
from visalign.trainers.tracking import keep_results


def check_reward_training(config: RewardConfig) -> RewardStart:
    """Where training starts, after finding mistakes before a model is loaded. Raises UserError."""
    start = find_start(config.model)
    model, head = start.settings, HEADS[start.settings.head]
    check_takes(config.objective, head, model.head)
    try:
        check_peers(config.objective, "model.members", model.members)
    except ValueError as error:
        raise UserError(f"model.source {config.model.source}: {error}") from None
    if is_sharded_run() and not head.divides:
        raise UserError(f"model.{model.head}: its table of users was not tried in parts, which sharded training "
                        "divides it into; use configs/accelerate/ddp.yaml")
    if is_sharded_run() and config.data.balance:
        raise UserError("data.balance takes gradients of a whole head, which sharded training divides; use "
                        "configs/accelerate/ddp.yaml")
    check_backbone(model)
    check_augment(config, start, head)
    check_optimizer(config.optim, (1.0, config.train.backbone_lr_scale, *head.own_rates(model).values()))
    pick_device(config.train.device)
    return start


def check_takes(objective: dict[str, Any], head: type[Head], name: str) -> None:
    """Raise UserError for a loss that does not take what the head gives."""
    takes = build_objective(objective, loop="reward").takes
    if takes != head.gives:
        raise UserError(f"objective.name {objective['name']}: takes {takes}, and the head {name} gives "
                        f"{head.gives}; objective general goes with model.general, every other with other heads")


def annotations_of(config: RewardConfig | GuideConfig,
                   dimensions: tuple[str, ...]) -> tuple[list[Annotation], list[Annotation]]:
    """Annotations to learn from, as `data.strength` has them, and to report on, as they are labelled. Raises UserError
    for labels with a chance of their own where the loss doubts all of them."""
    data, seed = config.data, config.train.seed
    items = [replace(item, source=number) for number, path in enumerate(data.paths)
             for item in read_annotations(path, dimensions, data.media_root, seed, data.strength)]
    if data.holdout_path:
        held_out = read_annotations(data.holdout_path, dimensions, data.media_root, seed)
    else:
        items, held_out = split_by_prompt(items, data.holdout)
    items = items[:data.max_annotations]
    if data.strength:
        say_what_was_turned(data.strength, len(items), sum(item.turned for item in items),
                            sum(item.label_margin is None for item in items))
        items = smoothed(items, data.strength.smooth) if data.strength.smooth else items
        held_out = [item.as_labelled() for item in held_out]
    doubted = next((item for item in items if item.chance < 1), None)
    if doubted:
        try:
            check_doubts(config.objective, "the chance of a label")
        except ValueError as error:
            raise UserError(f"{doubted.where}: {error}") from None
    return items, held_out


def trained_on(config: RewardConfig | GuideConfig, items: list[Annotation], pairs: Sequence[Annotation] = ()) -> dict:
    """What a reward learnt from, kept beside its weights. pairs: that were made of the annotations."""
    return {"trained on": {"annotations": len(items), "prompts": len({item.prompt for item in items}),
                           "objective": config.objective, "steps": config.train.steps,
                           **({"augmented": counts_of(pairs)} if pairs else {})}}


@heard()
def train_reward(config: RewardConfig, resume: bool = False) -> Path:
    """Train, save to `reward/` in the run's folder, measure on held-out annotations; returns the run's folder."""
    start = check_reward_training(config)
    items, held_out = annotations_of(config, start.settings.dimensions)
    items, users = HEADS[start.settings.head].learns_from(items, start.settings, " and ".join(config.data.paths))
    made = training_pairs(config, start.settings, items, held_out)
    with opened_run(config, resume) as (accelerator, run):
        learnt = learnt_pairs(config, start, made, len(items), run, accelerator)
        torch.manual_seed(config.train.seed)  # new layers must start equal on every process and after a restart
        network = start.network(users).to(accelerator.device)
        trainer = RewardTrainer(config, network, items + learnt, run, accelerator)
        with trainer.started():
            trainer.fit()
            with trainer.whole() as writes:
                if writes:
                    network.to(accelerator.device)
                    trainer.keep_users()
                    begun = {"started from": config.model.source} if start.folder else {}
                    save_reward(run.path / "reward", network, start.settings, trainer.standard(),
                                trained_on(config, items, learnt) | begun)
                    for line in network.heads.told():
                        notice(line)
            if held_out and writes:
                evaluate_reward(str(run.path / "reward"), held_out, run.path / "eval", str(accelerator.device),
                                augmented=held_out_pairs(config, start.settings, held_out))
        keep_results(accelerator, run, ("eval/report.html", "config.yaml"), {})
    return run.path
