"""What `visalign advise` knows of a model: of those that recipes name by heart, of others from their index."""

from dataclasses import dataclass, replace
from functools import lru_cache

from visalign.config import GuideConfig, ModelSettings, RewardConfig, Settings
from visalign.config.fitting import SIBLINGS
from visalign.config.language_reward import LanguageRewardConfig
from visalign.config.recipes import recipes
from visalign.errors import UserError
from visalign.generators.files.embedded import EMBEDDED_MODELS
from visalign.generators.files.locating import locate_model
from visalign.generators.files.sketching import explained, sketch
from visalign.jobs.new_recipe import SMALL, local_source
from visalign.objectives import REGISTRIES
from visalign.storage.language_models import locate_language_model
from visalign.storage.yaml_files import read_mapping


@dataclass(frozen=True)
class ModelKind:
    """pipeline: the class of a generator; process: flow or diffusion; modality: image, video or text; edits: whether
    its prompts have source images; small: whether it trains on a CPU."""

    pipeline: str
    process: str
    modality: str = "image"
    edits: bool = False
    small: bool = False

    @property
    def words(self) -> str:
        """Such as `a flow model of videos (WanPipeline)`."""
        if self.modality == "text":
            return "a language model"
        return f"a {self.process} model of {'edits' if self.edits else f'{self.modality}s'} ({self.pipeline})"


LANGUAGE = ModelKind("", "text", "text")
_WAN = ModelKind("WanPipeline", "flow", "video")
_HUNYUAN15 = ModelKind("HunyuanVideo15Pipeline", "flow", "video")
_KONTEXT = ModelKind("FluxKontextPipeline", "flow", edits=True)
_EDIT = ModelKind("QwenImageEditPlusPipeline", "flow", edits=True)
MODELS: dict[str, ModelKind] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ModelKind("StableDiffusionPipeline", "diffusion"),
    "stabilityai/stable-diffusion-2-1": ModelKind("StableDiffusionPipeline", "diffusion"),
    "stabilityai/stable-diffusion-xl-base-1.0": ModelKind("StableDiffusionXLPipeline", "diffusion"),
    "stabilityai/stable-diffusion-3.5-medium": ModelKind("StableDiffusion3Pipeline", "flow"),
    "black-forest-labs/FLUX.1-dev": ModelKind("FluxPipeline", "flow"),
    "black-forest-labs/FLUX.1-Kontext-dev": _KONTEXT,
    "black-forest-labs/FLUX.2-klein-base-9B": ModelKind("Flux2KleinPipeline", "flow"),
    "Qwen/Qwen-Image": ModelKind("QwenImagePipeline", "flow"),
    "Qwen/Qwen-Image-Edit-2509": _EDIT,
    "Qwen/Qwen-Image-Edit-2511": _EDIT,
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": ModelKind("SanaPipeline", "flow"),
    "Tongyi-MAI/Z-Image": ModelKind("ZImagePipeline", "flow"),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": _WAN,
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": _WAN,
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": ModelKind("WanImageToVideoPipeline", "flow", "video", edits=True),
    "hunyuanvideo-community/HunyuanVideo": ModelKind("HunyuanVideoPipeline", "flow", "video"),
    "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v": _HUNYUAN15,
    "Lightricks/LTX-Video": ModelKind("LTXPipeline", "flow", "video"),
    "Lightricks/LTX-2": ModelKind("LTX2Pipeline", "flow", "video"),
    "THUDM/CogVideoX-2b": ModelKind("CogVideoXPipeline", "diffusion", "video"),
    "tiny-sdxl": ModelKind("StableDiffusionXLPipeline", "diffusion", small=True),
    "tiny-sd3": ModelKind("StableDiffusion3Pipeline", "flow", small=True),
    "tiny-wan": replace(_WAN, small=True),
    "tiny-edit": replace(_KONTEXT, small=True),
}
"""Generators that recipes name, by hub id or embedded name."""

USUAL: dict[tuple[str, bool], tuple[str, ...]] = {
    ("image", False): ("stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-3.5-medium"),
    ("image", True): ("black-forest-labs/FLUX.1-Kontext-dev",),
    ("video", False): ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "THUDM/CogVideoX-2b"),
    ("video", True): ("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",),
}
"""One model of each process, by (modality, edits), for who names none."""


@dataclass(frozen=True)
class Model:
    """A model that is named, or one of those that are usual. base: of a single file."""

    source: str
    kind: ModelKind
    base: str | None = None


def see_model(source: str, base: str | None = None, language: bool = False) -> Model:
    """language: whether the data are of text. Raises UserError for a model that is not here, nor in a recipe."""
    if language:
        locate_language_model(source, weights=False)
        return Model(source, LANGUAGE)
    if source in MODELS and source not in EMBEDDED_MODELS:
        return Model(source, MODELS[source])
    settings = ModelSettings(source=str(local_source(source)), base=base)
    location = locate_model(settings)
    family = location.family
    with explained(source):
        denoiser = sketch(location, settings).denoiser
    small = sum(parameter.numel() for parameter in denoiser.parameters()) <= SMALL
    return Model(source, ModelKind(family.pipeline_class, family.process_kind, family.modality,
                                   family.sources is not None, small), base)


@dataclass(frozen=True)
class Recipe:
    """What the advisor needs to know of a shipped recipe. command: what starts it, and settings: what reads it (None:
    what its loop says). kind: of the model that it names, whose setting is model_key; None for a reward's own. process:
    of its objective, or any; of its model where it samples. place: the setting that names data; prompts: the
    one for prompts, "" where it takes none.
    """

    name: str
    command: str
    settings: type[Settings] | None
    model: str
    model_key: str
    kind: ModelKind | None
    process: str
    objective: str
    place: str
    prompts: str

    @property
    def looks_first(self) -> bool:
        """Whether its command has a dry run."""
        return self.settings is None and not self.command.endswith("rounds")

    def suits(self, model: ModelKind, siblings: bool, own: bool = False) -> bool:
        """Whether its values may do for a model. siblings: the same method for the other process counts as this one.
        own: they do for its own family and size alone."""
        if self.kind is None or own:
            return self.kind in (None, model)
        process = self.process in ("any", model.process) or siblings and self.objective in SIBLINGS
        return (self.kind.modality, self.kind.edits) == (model.modality, model.edits) and process and (
            model.small or not self.kind.small)

    def nearness(self, model: Model) -> tuple[bool, ...]:
        """More is nearer."""
        kind = self.kind or model.kind
        return (kind.small == model.kind.small, self.process in ("any", model.kind.process),
                self.model == model.source, kind.pipeline == model.kind.pipeline, kind.process == model.kind.process)


@lru_cache
def known_recipe(name: str) -> Recipe:
    """Raises UserError where no shipped recipe has the name."""
    if name not in recipes():
        raise UserError(f"advise: there is no shipped recipe {name}")
    raw = read_mapping(recipes()[name], "config")
    folder, loop, online = name.partition("/")[0], raw.get("loop", "images"), "rollout" in raw
    objective = (raw.get("objective") or {}).get("name", "")
    how = _of_rewards(folder, objective) or ("visalign lm rounds" if "rounds" in raw else _COMMANDS[loop], None)
    model_key = "generator.model.source" if loop == "adapt" else "model.source"
    model = raw["generator"]["model"]["source"] if loop == "adapt" else raw["model"]["source"]
    kind = None if folder == "reward_model" else LANGUAGE if loop == "language" else MODELS[model]
    known = REGISTRIES["online" if online else "offline"].get(objective) if loop == "images" else None
    own = next((place for section, place in _PLACES.items() if section in raw.get("data", {})), "data.path")
    place = "rollout.votes" if online else own
    prompts = "prompts" if loop == "adapt" else "rollout.prompts" if online else "data.feedback.prompts"
    process = kind.process if online and loop == "images" else known.process if known else "any"
    return Recipe(name, *how, model, model_key, kind, process, objective, place, prompts * (how[1] is None))


_PLACES = {"persuasion": "data.persuasion.path", "subject": "data.subject.photos"}
"""The setting that names the data, by the section of `data` that holds it."""
_COMMANDS = {"images": "visalign train", "language": "visalign lm train", "adapt": "visalign lm adapt"}


def _of_rewards(folder: str, objective: str) -> tuple[str, type[Settings]] | None:
    """(command, settings) of recipes that train a reward."""
    if folder == "guide":
        return "visalign guide train", GuideConfig
    if objective in REGISTRIES["language_reward"]:
        return "visalign reward train", LanguageRewardConfig
    return ("visalign reward train", RewardConfig) if folder == "reward_model" else None
