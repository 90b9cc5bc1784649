"""Changes of images and videos whose effect is known: for the worse in one respect, or none that anybody should mind.

Whatever is random in a change follows from its seed, so that it is the same whenever the medium is read.
"""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from visalign.media.answers import Answer
from visalign.media.samples import Media, Video

FRAMES_IN_ORDER = 3
"""Frames of a video that has an order to lose; two turned round may be another good motion."""
MOVES = 0.02
"""The least difference from the first frame, as a root mean square of pixels in [0, 1], that counts as motion."""


def jpeg(image: Image.Image, quality: int = 95) -> Image.Image:
    """The image after having been a JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image) -> Image.Image:
    """At 125 % of its size and back."""
    bigger = image.resize((round(image.width * 1.25), round(image.height * 1.25)), Image.Resampling.BICUBIC)
    return bigger.resize(image.size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image) -> Image.Image:
    """1 % less on each side, at the size that it had."""
    x, y = max(1, image.width // 100), max(1, image.height // 100)
    return image.crop((x, y, image.width - x, image.height - y)).resize(image.size, Image.Resampling.BICUBIC)


def blurred(image: Image.Image, rng: random.Random) -> Image.Image:
    """A Gaussian blur of 1.2 to 4 % of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(min(image.size) * rng.uniform(0.012, 0.04)))


def with_hole(image: Image.Image, rng: random.Random) -> Image.Image:
    """A rectangle of 20 to 50 % of each side painted over, in black, white or grey, whatever differs most."""
    image = image.convert("RGB")
    width, height = (max(1, round(side * rng.uniform(0.2, 0.5))) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    box = (left, top, left + width, top + height)
    shown = np.asarray(image.crop(box), dtype=np.float64)
    shade = max((0, 255, 128), key=lambda value: float(np.square(shown - value).mean()))
    image = image.copy()
    image.paste((shade,) * 3, box)
    return image


def with_noise(image: Image.Image, rng: random.Random) -> Image.Image:
    """Independent noise on every channel, of a standard deviation of 5 to 20 % of the range."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, 255 * rng.uniform(0.05, 0.2), pixels.shape)
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


def stretched(image: Image.Image, rng: random.Random) -> Image.Image:
    """One side 1.35 to 1.7 times as long, and the middle of that."""
    factor, wide = rng.uniform(1.35, 1.7), rng.random() < 0.5
    longer = image.resize((round(image.width * (factor if wide else 1)), round(image.height * (1 if wide else factor))),
                          Image.Resampling.BICUBIC)
    left, top = (longer.width - image.width) // 2, (longer.height - image.height) // 2
    return longer.crop((left, top, left + image.width, top + image.height))


def shuffled_frames(video: Video, rng: random.Random) -> Video:
    """The frames in an order that is neither theirs nor the reverse of it."""
    order = list(range(len(video.frames)))
    while order in (sorted(order), sorted(order, reverse=True)):
        rng.shuffle(order)
    return Video([video.frames[i] for i in order], video.fps)


def frozen_at(video: Video, rng: random.Random) -> Video:
    """One of its frames all the time."""
    return Video([rng.choice(video.frames)] * len(video.frames), video.fps)


IMAGE_CHANGES: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "blur": blurred, "jpeg": lambda image, rng: jpeg(image, 10), "hole": with_hole, "noise": with_noise,
    "stretch": stretched, "reencode": lambda image, rng: jpeg(image), "crop": lambda image, rng: cropped(image),
    "resize": lambda image, rng: resized(image)}
VIDEO_CHANGES: dict[str, Callable[[Video, random.Random], Video]] = {
    "shuffle": shuffled_frames, "freeze": frozen_at}


def moves(media: Media) -> bool:
    """Whether it is a video of FRAMES_IN_ORDER or more that does not stand still."""
    if not isinstance(media, Video) or len(media.frames) < FRAMES_IN_ORDER:
        return False
    first, *others = (np.asarray(frame.convert("RGB"), dtype=np.float64) / 255 for frame in media.frames)
    return any(np.sqrt(np.square(frame - first).mean()) >= MOVES for frame in others)


@dataclass(frozen=True)
class MediaChange:
    """One of IMAGE_CHANGES, of a video alike in all frames, or of VIDEO_CHANGES; seed: of what is random in it."""

    name: str
    seed: int

    def __call__(self, media: Media) -> Media:
        """The medium with the change. Raises ValueError for a text, and for a change of videos on anything else."""
        if isinstance(media, Answer) or (self.name in VIDEO_CHANGES and not isinstance(media, Video)):
            raise ValueError(f"the change {self.name} is not for a {type(media).__name__.lower()}")
        if self.name in VIDEO_CHANGES:
            return VIDEO_CHANGES[self.name](media, random.Random(self.seed))
        change = IMAGE_CHANGES[self.name]
        if isinstance(media, Video):
            return Video([change(frame, random.Random(self.seed)) for frame in media.frames], media.fps)
        return change(media, random.Random(self.seed))
