"""`visalign votes draw`: pairs of the model's samples to vote on, which training will draw again exactly."""

import csv
import io
from pathlib import Path

import torch
from tqdm import tqdm

from visalign.config import OnlineConfig
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.files.locating import locate_model
from visalign.generators.hardware.devices import pick_device
from visalign.generators.prompt_length import say_what_is_cut
from visalign.jobs.training_setup import check_sampler, rollout_prompts
from visalign.media.source_images import sample_of, sheet_row
from visalign.media.video_files import media_file, save_sheet
from visalign.rewards import finite_scores, for_modality, load_reward
from visalign.sampling.encoding_cache import EncodingCache
from visalign.storage.files import write_atomically
from visalign.trainers.online.collect import PromptEmbeddings
from visalign.trainers.online.epochs import voted_seeds
from visalign.trainers.online.rollout import Sampler, Start
from visalign.trainers.online.step_selection import noisy_steps

VOTE_COLUMNS = ("prompt", "a_seed", "b_seed", "choice", "a", "b")


def draw_for_votes(config: OnlineConfig, out: Path, pairs: int, reward: str | None = None, seed: int = 0) -> int:
    """Write images or videos, a contact sheet and votes.csv; returns the number of pairs.

    Choices are left empty for people to fill in, or made by a reward. The model is used as it is before training.
    Raises UserError when `out` already holds votes.
    """
    table = out / "votes.csv"
    if table.exists():
        raise UserError(f"output {out}: already holds votes.csv; choose another folder with --out")
    family = locate_model(config.model).family
    check_sampler(config, family)
    reward_model = for_modality(load_reward(reward), family.modality) if reward else None
    prompts = rollout_prompts(config)
    generator = load_generator(config.model, pick_device(config.train.device))
    say_what_is_cut(generator, prompts, "drawing pairs")
    sampler = Sampler(generator, config.rollout, keep_mean=False)
    noisy = frozenset(noisy_steps(generator.process, sampler.times, config.rollout))
    conditions = PromptEmbeddings(EncodingCache(config.rollout.cache, generator), config, generator.device)
    out.mkdir(parents=True, exist_ok=True)
    rows, sheet = [], []
    size = max(1, config.rollout.batch_size // 2)
    for first in tqdm(range(0, pairs, size), desc="drawing pairs", unit="batch"):
        numbers = range(first, min(first + size, pairs))
        chosen = [prompts[(seed + number) % len(prompts)] for number in numbers]
        conditions.load(chosen)
        seeds = [(seed + number) * 2 + side for number in numbers for side in (0, 1)]
        starts = [Start(i, chosen[i // 2], conditions.key(chosen[i // 2]), *voted_seeds(own))
                  for i, own in enumerate(seeds)]
        nothing = torch.empty(len(starts), 0, dtype=torch.int64)
        drawn = sampler.draw(starts, *conditions.of(starts), noisy, nothing)
        drawn_media = generator.decode(torch.stack([sample.latents for sample in drawn]).to(generator.device))
        samples = [sample_of(s.prompt, generator.text_of(s.prompt), media)
                   for s, media in zip(starts, drawn_media, strict=True)]
        scores = finite_scores(reward_model, samples).tolist() if reward_model else None
        for i, number in enumerate(numbers):
            files = [media_file(media) for media in drawn_media[2 * i:2 * i + 2]]
            names = [f"{number:05d}-{side}{suffix}" for side, (suffix, _) in zip("ab", files, strict=True)]
            for name, (_, content) in zip(names, files, strict=True):
                write_atomically(out / name, content)
            choice = "" if scores is None else choice_of(*scores[2 * i:2 * i + 2])
            rows.append(dict(zip(VOTE_COLUMNS, (chosen[i], *seeds[2 * i:2 * i + 2], choice, *names), strict=True)))
            sheet.append(sheet_row(samples[2 * i:2 * i + 2]))
    save_sheet(sheet[:100], out / "sheet.png")
    text = io.StringIO()
    writer = csv.DictWriter(text, VOTE_COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(table, text.getvalue().encode())
    return len(rows)


def choice_of(a: float, b: float) -> str:
    return "tie" if a == b else "a" if a > b else "b"
