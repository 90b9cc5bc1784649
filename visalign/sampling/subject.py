"""Pairs of one subject: its photographs against images that the frozen model makes of other prompts (RPO's data)."""

from pathlib import Path

import torch
from PIL import Image

from visalign.config.subject import SubjectSettings
from visalign.data.preference_pair import PreferencePair
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.media.photographs import read_photographs
from visalign.media.samples import Sample, to_bytes
from visalign.parallel.sharing import Processes
from visalign.rewards import Reward, finite_scores
from visalign.rewards.harmonic import in_unit, without_word
from visalign.sampling.feedback import make_samples
from visalign.storage.files import write_atomically

KEPT_IN = "subject"
"""Of the photographs and images, in the run's."""


def check_scale(reward: Reward) -> None:
    """Raise UserError for a reward whose values cannot be mapped to 0 to 1."""
    try:
        in_unit(reward, torch.zeros(0))
    except ValueError as error:
        raise UserError(f"data.subject.reward: {error}") from None


def subject_pairs(generator: Generator, settings: SubjectSettings, reward: Reward, seed: int, processes: Processes,
                  folder: Path) -> list[PreferencePair]:
    """Every photograph with every caption against every image, both rewards by the image's prompt, from 0 to 1.

    Processes share the sampling; the first writes photographs and images into `folder`/subject, where pairs name
    them. Raises UserError for photographs that cannot be read.
    """
    photographs = read_photographs(settings.photos, "data.subject.photos")
    prompts = read_prompts(settings.prompts, settings.max_prompts)
    images = make_samples(generator, prompts, settings.samples_per_prompt, steps=settings.steps,
                          guidance_scale=settings.guidance_scale, seed=seed, label="sampling the frozen model",
                          processes=processes)
    scores = processes.told_by_first(lambda: _scores(list(photographs.values()), images, settings, reward))
    photo_files = [_kept(image, folder, f"photograph-{i:03d}", processes)
                   for i, image in enumerate(photographs.values())]
    image_files = [_kept(each.image, folder, f"image-{i:03d}", processes) for i, each in enumerate(images)]
    return [PreferencePair(caption, photo, image, f"{name} and the image of '{images[j].prompt}'",
                           chosen_reward=scores[j][i], rejected_reward=scores[j][-1],
                           rejected_prompt=images[j].prompt)
            for j, image in enumerate(image_files)
            for i, (name, photo) in enumerate(zip(photographs, photo_files, strict=True))
            for caption in settings.captions]


def _scores(photographs: list[Image.Image], images: list[Sample], settings: SubjectSettings,
            reward: Reward) -> list[list[float]]:
    """For each image: of every photograph by the image's prompt, and last of the image itself."""
    seen = [Sample(without_word(each.prompt, settings.token or ""), image)
            for each in images for image in (*photographs, each.image)]
    return in_unit(reward, finite_scores(reward, seen)).view(len(images), -1).tolist()


def _kept(image: Image.Image, folder: Path, name: str, processes: Processes) -> str:
    """The file's name as a table in `folder` gives it."""
    file = f"{KEPT_IN}/{name}.png"
    if processes.is_first:
        (folder / KEPT_IN).mkdir(parents=True, exist_ok=True)
        write_atomically(folder / file, to_bytes(image))
    return file
