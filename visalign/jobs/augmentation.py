"""`data.augment` of a reward's training: the pairs that are made of its annotations, to learn from and to report on."""

import json
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from visalign.config import JointSettings, RewardConfig
from visalign.config.load import load_config
from visalign.config.recipes import find_recipe
from visalign.data.annotations import Annotation
from visalign.data.augment import augmented, counts_of
from visalign.data.text_annotations import AnnotatedText
from visalign.errors import UserError, notice
from visalign.evaluation.augmented_kinds import label_chances
from visalign.evaluation.reward_eval import score_annotations
from visalign.parallel.sharing import Processes
from visalign.rewards import load_reward
from visalign.rewards.joint.heads import Head
from visalign.rewards.joint.start import RewardStart, find_start
from visalign.storage.files import write_atomically
from visalign.storage.run_folder import RunFolder


def check_augment(config: RewardConfig, start: RewardStart, head: type[Head]) -> None:
    """Raise UserError for changes that the reward cannot learn from, and where no reward can choose among them."""
    settings, model = config.data.augment, start.settings
    if settings is None:
        return
    try:
        settings.check(model.dimensions, model.frames, head.gives)
    except ValueError as error:
        raise UserError(str(error)) from None
    if settings.keep_below and not start.folder:
        raise UserError(f"data.augment.keep_below {settings.keep_below:g}: asks the reward that training goes on from, "
                        f"and model.source {config.model.source} is no trained reward; leave it out")


def training_pairs(config: RewardConfig, model: JointSettings, items: list[Annotation],
                   held_out: list[Annotation]) -> list[Annotation]:
    """What `data.augment` makes of the annotations that are learnt from; prompts of the held-out ones are in none.
    Raises UserError for a change that no annotation can have."""
    return _pairs(config, model, items, seed=config.train.seed, avoid={item.prompt for item in held_out})


def held_out_pairs(config: RewardConfig, model: JointSettings, held_out: list[Annotation]) -> list[Annotation]:
    """What it makes of those that are reported on, one causal and one neutral pair of each that fits; whatever the
    run's seed, so that runs are compared on the same ones."""
    return _pairs(config, model, held_out, seed="held out", share=1.0, strict=False)


def pairs_as_in(recipe: str, items: list[Annotation]) -> list[Annotation]:
    """The pairs of `items` that a training of this recipe would report on. Raises UserError for a recipe that makes
    none, and for answers."""
    config = load_config(find_recipe(recipe), (), RewardConfig)
    if config.data.augment is None:
        raise UserError(f"augment {recipe}: its data.augment says nothing of pairs to make")
    if isinstance(items[0].a, AnnotatedText):
        raise UserError(f"augment {recipe}: changes images and videos, and the reward reads answers")
    return held_out_pairs(config, find_start(config.model).settings, items)


def _pairs(config: RewardConfig, model: JointSettings, items: list[Annotation], **more) -> list[Annotation]:
    settings = config.data.augment
    return [] if settings is None else augmented(items, settings, model.dimensions, model.video_only,
                                                 frames=model.frames, **more)


def learnt_pairs(config: RewardConfig, start: RewardStart, made: list[Annotation], annotations: int, run: RunFolder,
                 accelerator: Accelerator) -> list[Annotation]:
    """The pairs that are learnt from beside the annotations, and how many of each kind are, said."""
    settings = config.data.augment
    if settings is None:
        return []
    pairs = made
    if start.folder and settings.keep_below:
        keeps = Processes(accelerator.process_index, accelerator.num_processes).told_by_first(
            lambda: unsure(start.folder, made, settings.keep_below, run.path / "augmented.json",
                           str(accelerator.device)))
        pairs = [pair for pair, keep in zip(made, keeps, strict=True) if keep]
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts_of(pairs).items())
    left = f"; data.augment.keep_below leaves {len(made) - len(pairs)} others out" if settings.keep_below else ""
    notice(f"data.augment: {len(pairs)} pairs beside {annotations} annotations: {kinds or 'none'}{left}")
    return pairs


def unsure(folder: Path, pairs: list[Annotation], below: float, file: Path, device: str) -> list[bool]:
    """Of each pair whether the reward in `folder` gives its label less than this probability, or none. Kept in `file`,
    so that a resumed run has the same ones."""
    if not file.is_file():
        reward = load_reward(str(folder), device)
        scored = score_annotations(reward, pairs, edits=False)
        scale = np.asarray(getattr(reward, "logit_scale", None) or [1.0] * len(reward.dimensions))
        chances = label_chances(pairs, (scored.a - scored.b) * scale, reward.dimensions)
        write_atomically(file, json.dumps([not chance >= below for chance in chances.tolist()]).encode())
    return json.loads(file.read_text())
