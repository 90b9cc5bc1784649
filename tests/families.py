"""The generator families that tests run over: a tiny random pipeline for each family of FAMILIES.

A new family needs one entry of TINY, named by its pipeline class; every test marked `@each_family()` then runs on it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import builders, images, videos
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import FAMILIES, Generator, load_generator


@dataclass(frozen=True)
class Tiny:
    """A pipeline of a family, given by its class. latents: shape of one sample's. settings: at which it is quick.

    stands_for_all: whether `each_family` has it; the others are proved by what they all must do, and trained.
    """

    family: str
    build: Callable[[Path], Path]
    latents: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    stands_for_all: bool = True

    @property
    def is_video(self) -> bool:
        return FAMILIES[self.family].modality == "video"

    @property
    def is_diffusion(self) -> bool:
        return FAMILIES[self.family].process_kind == "diffusion"


WAN = {"resolution": [16, 32], "frames": 5}
TINY: dict[str, Tiny] = {
    "sd3": Tiny("StableDiffusion3Pipeline", images.build_sd3, (4, 8, 8)),
    "flux": Tiny("FluxPipeline", images.build_flux, (4, 8, 8), {"resolution": 16}),
    "sdxl": Tiny("StableDiffusionXLPipeline", images.build_sdxl, (4, 8, 8)),
    "sd15": Tiny("StableDiffusionPipeline", images.build_sd15, (4, 8, 8)),
    "sdxl-two-widths": Tiny("StableDiffusionXLPipeline", lambda folder: images.build_sdxl(folder, 32),
                            (4, 8, 8)),
    "sd15-v": Tiny("StableDiffusionPipeline", lambda folder: images.build_sd15(folder, "v_prediction"),
                   (4, 8, 8)),
    "wan": Tiny("WanPipeline", videos.build_wan, (4, 3, 8, 16), WAN),
    "wan-image": Tiny("WanImageToVideoPipeline", videos.build_wan_image, (4, 3, 8, 16), WAN),
    "ltx": Tiny("LTXPipeline", videos.build_ltx, (4, 2, 8, 16),
                {"resolution": [32, 64], "frames": 5, "fps": 8}),
    "hunyuan": Tiny("HunyuanVideoPipeline", videos.build_hunyuan, (4, 2, 2, 2),
                    {"resolution": 16, "frames": 5}),
    "cogvideox": Tiny("CogVideoXPipeline", videos.build_cogvideox, (4, 3, 4, 4),
                      {"resolution": [32, 32], "frames": 9}),
}
TINY |= {name: Tiny(family, builders()[name], latents, settings, stands_for_all=False)
         for name, family, latents, settings in (
    ("flux_kontext", "FluxKontextPipeline", (4, 8, 12), {"resolution": [16, 24], "prompt_tokens": 16}),
    ("z_image", "ZImagePipeline", (4, 8, 12), {"resolution": [16, 24], "prompt_tokens": 32}),
    ("qwen_image", "QwenImagePipeline", (4, 1, 8, 12), {"resolution": [16, 24]}),
    ("qwen_image_edit", "QwenImageEditPipeline", (4, 1, 8, 12), {"resolution": [16, 24]}),
    ("qwen_image_edit_plus", "QwenImageEditPlusPipeline", (4, 1, 8, 12), {"resolution": [16, 24]}),
    ("qwen_image21", "QwenImage21Pipeline", (4, 1, 4, 6), {"resolution": [64, 96]}),
    ("flux2_klein", "Flux2KleinPipeline", (4, 8, 12), {"resolution": [16, 24], "prompt_tokens": 32}),
    ("flux2_dev", "Flux2Pipeline", (4, 8, 12), {"resolution": [16, 24], "prompt_tokens": 96}),
    ("krea2", "Krea2Pipeline", (4, 1, 8, 12), {"resolution": [16, 24], "prompt_tokens": 32}),
    ("chroma", "ChromaPipeline", (4, 8, 12), {"resolution": [16, 24], "prompt_tokens": 16}),
    ("sana", "SanaPipeline", (4, 16, 32),
     {"resolution": [32, 64], "prompt_tokens": 16, "call": {"complex_human_instruction": None}}),
    ("lumina2", "Lumina2Pipeline", (4, 8, 12), {"resolution": [64, 96], "prompt_tokens": 48}),
    ("aura_flow", "AuraFlowPipeline", (4, 8, 12), {"resolution": [16, 24], "prompt_tokens": 16}),
    ("cogview4", "CogView4Pipeline", (4, 8, 16), {"resolution": [16, 32]}),
    ("kandinsky5_image", "Kandinsky5T2IPipeline", (4, 4, 6), {"resolution": [32, 48]}),
    ("hidream", "HiDreamImagePipeline", (4, 8, 32), {"resolution": [16, 64], "prompt_tokens": 16}),
    ("pixart_sigma", "PixArtSigmaPipeline", (4, 8, 12),
     {"resolution": [16, 24], "prompt_tokens": 16, "call": {"clean_caption": False}}),
    ("hunyuan15", "HunyuanVideo15Pipeline", (4, 3, 8, 8), {"resolution": 16, "frames": 5}),
    ("ltx2", "LTX2Pipeline", (4, 3, 16, 32),
     {"resolution": [32, 64], "frames": 5, "prompt_tokens": 16}),
    ("sana_video", "SanaVideoPipeline", (4, 3, 16, 16),
     {"resolution": 32, "frames": 5, "prompt_tokens": 16, "call": {"complex_human_instruction": None}}),
    ("wan22", "WanPipeline", (4, 3, 8, 8), {"resolution": 16, "frames": 5, "prompt_tokens": 16}),
    ("wan22_image", "WanImageToVideoPipeline", (4, 3, 8, 8),
     {"resolution": 16, "frames": 5, "prompt_tokens": 16}),
    ("wan22_small", "WanPipeline", (4, 3, 4, 4),
     {"resolution": 16, "frames": 5, "prompt_tokens": 16}),
    ("wan22_small_image", "WanImageToVideoPipeline", (4, 3, 4, 4),
     {"resolution": 16, "frames": 5, "prompt_tokens": 16}),
    ("kandinsky5_video", "Kandinsky5T2VPipeline", (4, 2, 2, 2),
     {"resolution": 16, "frames": 5, "prompt_tokens": 32}),
    ("mochi", "MochiPipeline", (12, 2, 4, 4), {"resolution": 32, "frames": 7, "prompt_tokens": 16}),
    ("allegro", "AllegroPipeline", (4, 2, 4, 4),
     {"resolution": 32, "frames": 8, "prompt_tokens": 16, "call": {"clean_caption": False}}),
    ("easyanimate", "EasyAnimatePipeline", (4, 2, 4, 4), {"resolution": 32, "frames": 5}),
    ("cosmos25", "Cosmos2_5_PredictBasePipeline", (4, 3, 8, 8),
     {"resolution": 16, "frames": 5, "prompt_tokens": 128}))}
"""By the name that the fixtures `pipelines`, `recipe` and `online_recipe` take; the first of a family stands for it."""


def first_of(family: str) -> str | None:
    """The tiny pipeline that stands for a family, None where there is none."""
    return next((name for name, tiny in TINY.items() if tiny.family == family), None)


def takes_words(family: type[Generator]) -> bool:
    """Whether words alone are a prompt of this family."""
    try:
        family.check_prompts(["a cat face"], "prompts")
    except UserError:
        return False
    return True


def family_names(modality: str | None = None) -> Iterator[str]:
    """The tiny pipeline of every family whose prompts are words; of images or videos only where a modality is given."""
    for family, kind in FAMILIES.items():
        name = first_of(family)
        if name and TINY[name].stands_for_all and takes_words(kind) and modality in (None, kind.modality):
            yield name


def each_family(modality: str | None = None, also: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Runs a test with `name` being each of `family_names`, and `also` these variants of a family."""
    return pytest.mark.parametrize("name", [*family_names(modality), *also])


def load_tiny(folder: Path, name: str, **changes: Any) -> Generator:
    """The generator of a tiny pipeline in `folder`, in full precision and at its quick settings."""
    settings = {"precision": "fp32", "prompt_tokens": 8} | TINY[name].settings | changes
    return load_generator(ModelSettings(source=str(folder), **settings), "cpu")
