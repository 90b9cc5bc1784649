"""`visalign guide train`: from annotations to a latent reward, with its accuracy by noise level.


Run:  visalign guide train configs/guide/tiny_wan.yaml
"""

import json
from pathlib import Path

import torch
from tqdm import tqdm

from visalign.config import GuideConfig
from visalign.data.annotations import Annotation
from visalign.errors import UserError
from visalign.generators import load_generator, locate_model
from visalign.generators.prompt_length import say_what_is_cut
from visalign.generators.video_speed import say_speeds
from visalign.guidance.network import LatentReward, save_guide
from visalign.jobs.reward_train import annotations_of, check_takes, trained_on
from visalign.parallel.opening import is_sharded_run
from visalign.rewards.joint.heads import Heads
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.source_check import check_takes_sources
from visalign.storage.run_folder import write_atomically
from visalign.trainers.opening import opened_run
from visalign.trainers.optim import check_optimizer
from visalign.trainers.reward.loop import RewardTrainer
from visalign.trainers.reward.noisy_latents import NoisyPairs, accuracy_by_noise
from visalign.trainers.stopping import heard
from visalign.trainers.tracking import keep_results


@heard()
def train_guide(config: GuideConfig, resume: bool = False) -> Path:
    """Encode every item once, train, save to `guide/` in the run's folder with its accuracy by noise level.

    Raises UserError for anything the user can fix.
    """
    check_takes(config.objective, Heads, "of a guide")
    locate_model(config.model)
    check_optimizer(config.optim, (1.0, config.train.backbone_lr_scale))
    if is_sharded_run():
        raise UserError("guide train: a guide's head is small and reads inside the frozen model, so there is nothing "
                        "to divide among processes; use configs/accelerate/ddp.yaml")
    items, held_out = annotations_of(config, config.head.dimensions)
    with opened_run(config, resume) as (accelerator, run):
        generator = load_generator(config.model, accelerator.device)
        torch.manual_seed(config.train.seed)  # the head must start equal on every process and after a restart
        guide = LatentReward(generator, config.head).to(accelerator.device)
        pairs = NoisyPairs(guide, EncodingCache(config.data.cache, generator))
        encode(items + held_out, pairs.cache, accelerator.process_index, accelerator.num_processes)
        pairs.cache.share()
        accelerator.wait_for_everyone()
        pairs.cache.find_shared()
        trainer = RewardTrainer(config, pairs, items, run, accelerator)
        with trainer.started():
            trainer.fit()
            if accelerator.is_main_process:
                with trainer.state.averaged():
                    found = accuracy_by_noise(trainer, held_out) if held_out else {}
                    save_guide(run.path / "guide", guide, config.model, trained_on(config, items) | {"accuracy": found})
                write_atomically(run.path / "accuracy.json", (json.dumps(found, indent=2) + "\n").encode())
        keep_results(accelerator, run, ("accuracy.json", "config.yaml"), {})
    return run.path


def encode(items: list[Annotation], cache: EncodingCache, rank: int, world: int, batch: int = 16) -> None:
    """Put both sides of this process's share of the items into the cache.

    Raises UserError naming a row whose medium is not of the generator's modality.
    """
    generator, speeds = cache.generator, []
    say_what_is_cut(generator, [side.prompt for item in items for side in (item.a, item.b)], "annotations")
    mine = items[rank::world]
    for start in tqdm(range(0, len(mine), batch), desc="encoding annotations", unit="batch", disable=rank > 0):
        media, prompts = {}, {}
        for item in mine[start:start + batch]:
            for side in "ab":
                sample = item.sample(side, generator.shape.frames or 1)
                generator.check_media([sample.media], item.where)
                speeds.append((generator.speed_of(sample.media), item.where))
                media[cache.media_key(sample.media)] = sample.media
                check_takes_sources(generator, [sample.source_prompt], item.where)
                prompts[cache.prompt_key(sample.source_prompt)] = sample.source_prompt
        cache.add_media(media)
        cache.add_prompts(prompts)
    say_speeds(speeds, generator.shape)
