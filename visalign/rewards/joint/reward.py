"""A trained unified reward: a folder with `reward.json` and `reward.safetensors`, used like any other reward."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import ValidationError
from torch import Tensor

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.joint.heads import NOBODY, NOBODY_KNOWN, KnownUsers
from visalign.rewards.joint.network import HEADS, TOWERS, JointNetwork, OpenClipBackbone
from visalign.rewards.joint.user_heads import whose
from visalign.rewards.openclip import (
    check_clip_source,
    check_own_tokenizer,
    cut_prompts,
    load_open_clip,
    pixels_to_batch,
)
from visalign.rewards.sizes import of_header, of_open_clip, of_transformers, sum_of
from visalign.storage.hashed_users import hashed_user
from visalign.storage.pretrained import TOKENIZER_FILES
from visalign.storage.weights import read_tensors, write_tensors
from visalign.validation.ranges import FewOrNone

REWARD_FILES = ("reward.json", "reward.safetensors")


def open_clip_backbone(settings: JointSettings, folder: Path | None) -> OpenClipBackbone:
    """Towers from `settings.source`; a fully tuned reward keeps configuration and tokenizer in its own folder."""
    if folder and settings.tuning == "full":
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        name = f"local-dir:{folder}"
        clip = open_clip.create_model(name, load_weights=False)
        preprocess = image_transform_v2(PreprocessCfg(**clip.visual.preprocess_cfg), is_train=False)
        return OpenClipBackbone(settings, clip, preprocess, open_clip.get_tokenizer(name))
    return OpenClipBackbone(settings, *load_open_clip(settings.source, "joint"))


def vlm_backbone(settings: JointSettings, folder: Path | None):
    from visalign.rewards.joint.vlm import VlmBackbone

    return VlmBackbone(settings)


BACKBONES: dict[str, Callable] = {"open_clip": open_clip_backbone, "vlm": vlm_backbone}


def check_backbone(settings: JointSettings) -> None:
    """Raise UserError when the backbone's source cannot be right; loads nothing."""
    if settings.backbone == "open_clip":
        check_clip_source(settings.source, "joint")
    elif Path(settings.source).expanduser().is_dir() and not (Path(settings.source) / "config.json").is_file():
        raise UserError(f"reward joint: {settings.source} is not a transformers folder, it has no config.json")


def build_network(settings: JointSettings, folder: Path | None = None,
                  users: KnownUsers = NOBODY_KNOWN) -> JointNetwork:
    return JointNetwork(BACKBONES[settings.backbone](settings, folder), settings, users)


@dataclass(frozen=True)
class Saved:
    """What `reward.json` of a folder says. standard: mean and std of each dimension, {} where there are none.
    standards: those of users whose rewards have a zero and unit of their own, by hashed name."""

    settings: JointSettings
    standard: dict[str, list[float]]
    users: KnownUsers
    standards: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def read_saved(folder: Path, source: str) -> Saved:
    """Raises UserError for what is no unified reward's folder, which messages call `source`."""
    for name in REWARD_FILES:
        if not (folder / name).is_file():
            raise UserError(f"reward {source}: not a unified reward's folder, it has no {name}")
    file = folder / REWARD_FILES[0]
    try:
        saved = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"reward {file}: not readable as JSON ({error})") from None
    try:
        users = saved.get("users", {"names": [], "learnt": 0})
        return Saved(JointSettings.model_validate(saved["model"]), saved["standard"],
                     KnownUsers(tuple(users["names"]), users["learnt"]), dict(users.get("standards", {})))
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"reward {file}: not a unified reward's settings ({reason})") from None


def kind_of_folder(folder: Path) -> str:
    """The kind of reward that scores a folder with `reward.json`."""
    return HEADS[read_saved(folder, str(folder)).settings.head].scored_by


@dataclass
class TrainedReward(RewardModel):
    """Base of the rewards that `visalign reward train` makes, whatever their head. source: the folder."""

    source: str

    modalities = frozenset({"image", "video"})
    needs_prompt = True
    kind: ClassVar[str]

    def __post_init__(self):
        super().__post_init__()
        self.folder = Path(self.source).expanduser()
        self._saved = read_saved(self.folder, self.source)
        self.settings = self._saved.settings
        kind = HEADS[self.settings.head].scored_by
        if kind != self.kind:
            raise UserError(f"reward {self.source}: its head is {self.settings.head}, which is a reward of kind "
                            f"{kind}; name it so, or by its folder alone")
        if self.settings.tuning == "full" and self.settings.backbone == "open_clip":
            check_own_tokenizer(self.folder, f"reward {self.source}")
        if self.settings.tuning == "lora" or self.settings.backbone == "vlm":
            self.batch_size = min(self.batch_size, 16)

    def held_bytes(self) -> int | None:
        file, settings = self.folder / REWARD_FILES[1], self.settings
        trained = of_header(file, f"reward {file}")
        if settings.tuning == "full":
            return trained
        below = of_open_clip(settings.source) if settings.backbone == "open_clip" else of_transformers(
            "AutoModelForImageTextToText", settings.source)
        return sum_of([trained, below])

    def load(self) -> JointNetwork:
        network = build_network(self.settings, self.folder, self._saved.users)
        load_trained(network, self.folder)
        return network.eval().requires_grad_(False)

    def inputs_of(self, samples: list[Sample]) -> dict[str, Tensor]:
        """What the network reads of samples, on its device."""
        return {name: tensor.to(self.device) for name, tensor in self.network.collate(samples).items()}

    def remarks_of(self, samples: list[Sample]) -> dict[int, str]:
        """By sample, what a prompt loses."""
        if self.settings.backbone != "open_clip":
            return {}
        return cut_prompts(self.network.backbone.tokenizer, [sample.prompt for sample in samples])


def load_trained(network: JointNetwork, folder: Path, was_frozen: bool = False) -> None:
    """Put what training changed into a network, from a folder. was_frozen: whether its towers were, so that those of a
    network that is tuned otherwise stay as they are. Raises UserError where it does not fit."""
    file = folder / REWARD_FILES[1]
    try:
        weights = {name: tensor.float() for name, tensor in read_tensors(file, f"reward {file}").items()}
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"reward {file}: cannot be read ({reason})") from None
    expected = {name for name in trained_weights(network) if not (was_frozen and name.startswith(TOWERS))}
    odd = sorted((set(missing) & expected) | set(unexpected))
    if odd:
        raise UserError(f"reward {file}: does not fit its settings, {odd[0]} is on one side only")


@dataclass
class JointReward(TrainedReward):
    """The unified reward that `visalign reward train` makes: images and videos, named dimensions, with a spread.

    source: its folder. Values are in standard deviations of the set it was trained on, around that set's mean; a
    difference times `logit_scale` is in log-odds. Of a head with users: user: whose reward it is, by name or hash
    (none: a sample's own user where a table says so and the reward knows them, else nobody's in particular, the mean
    over prototypes, groups or latents); with latents its values are in this user's own standard deviations. prototype:
    the number of the one, or of the group, whose reward it is, from 0.
    """

    user: str | None = None
    prototype: FewOrNone | None = None

    kind = "joint"

    def __post_init__(self):
        super().__post_init__()
        self.dimensions = self.settings.dimensions
        self.users = self._saved.users
        self._whose = whose(self.users, self.settings, self.source, self.user, self.prototype)
        self.standard = self._saved.standard
        if self.user is not None:
            self.standard = self._saved.standards.get(hashed_user(self.user), self.standard)
        self.logit_scale = tuple(self.standard["std"])

    def inputs_of(self, samples: list[Sample]) -> dict[str, Tensor]:
        inputs = super().inputs_of(samples)
        return inputs | {name: torch.full_like(inputs[name], place) for name, place in self._whose.items()}

    def score_pixels(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """As `score`, of square images [B, 3, H, W] in [0, 1] and with gradients, [B, D]; for open_clip backbones."""
        network = self.network
        if self.settings.backbone != "open_clip":
            raise UserError(f"reward {self.name}: only a unified reward on open_clip has gradients to the image")
        backbone = network.backbone
        inputs = {"pixels": pixels_to_batch(backbone.preprocess, pixels.to(self.device), self.name),
                  "lengths": torch.ones(len(pixels), dtype=torch.int64, device=self.device),
                  "tokens": backbone.tokenizer(prompts).to(self.device)}
        told = network.heads.collate([Sample(prompt) for prompt in prompts])
        inputs |= {name: torch.full_like(t, self._whose.get(name, NOBODY)).to(self.device) for name, t in told.items()}
        standard = {name: torch.tensor(values, device=self.device) for name, values in self.standard.items()}
        return ((network(**inputs) - standard["mean"]) / standard["std"]).mean(1)

    @torch.no_grad()
    def member_values(self, samples: list[Sample]) -> Tensor:
        """Values of each of the E members for one batch, [n, E, D], NaN for an image in a dimension of videos only."""
        mean, std = (torch.tensor(self.standard[name]) for name in ("mean", "std"))
        values = (self.network(**self.inputs_of(samples)).cpu() - mean) / std
        images = torch.tensor([sample.modality == "image" for sample in samples])
        videos_only = torch.tensor([name in self.settings.video_only for name in self.dimensions])
        return values.masked_fill(images[:, None, None] & videos_only, float("nan"))

    @torch.no_grad()
    def hidden_features(self, samples: list[Sample]) -> Tensor:
        """What the heads read of each sample and its prompt, float32 [n, d], those of all dimensions side by side."""
        parts = []
        for start in range(0, len(samples), self.batch_size):
            inputs = self.network.backbone.collate(samples[start:start + self.batch_size])
            seen = self.network.backbone(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
            parts.append(self.network.heads.read_as(seen).flatten(1).float().cpu())
        return torch.cat(parts)

    def score_batch(self, samples: list[Sample]) -> Scores:
        rewards = self.member_values(samples)
        values, spread = rewards.mean(1), rewards.std(1, correction=0)
        remarks = self.remarks_of(samples)
        still = any(name in self.settings.video_only for name in self.dimensions)
        for i, sample in enumerate(samples):
            if sample.modality == "image" and still:
                only = f"{' and '.join(self.settings.video_only)}: videos only"
                remarks[i] = f"{remarks[i]}; {only}" if i in remarks else only
        return Scores(values, remarks, spread)


def trained_weights(network: JointNetwork) -> dict[str, Tensor]:
    """What training changes, by name: weights, and what the head keeps of its users."""
    saved = network.heads.state_dict().keys()
    kept = {f"heads.{name}": tensor for name, tensor in network.heads.named_buffers() if name in saved}
    return {name: p for name, p in network.named_parameters() if p.requires_grad} | kept


def save_reward(folder: Path, network: JointNetwork, settings: JointSettings, standard: dict[str, list[float]],
                about: dict) -> None:
    """Write a reward's folder: settings, metadata (`about` and the head's), and the weights that training changed.

    A fully tuned open_clip reward includes its tower's configuration and tokenizer and needs no other file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = trained_weights(network)
    if settings.tuning == "full" and settings.backbone == "open_clip":
        copy_tower_files(settings.source, folder, network)
        settings = settings.model_copy(update={"source": "."})
    write_tensors(folder / REWARD_FILES[1], weights)
    saved = {"model": settings.model_dump(mode="json"), "standard": standard, **about, **network.heads.about()}
    (folder / REWARD_FILES[0]).write_text(json.dumps(saved, indent=2) + "\n")


def copy_tower_files(source: str, folder: Path, network: JointNetwork) -> None:
    """`open_clip_config.json` and tokenizer files beside the weights."""
    import shutil

    import open_clip

    from visalign.storage.open_clip_models import model_name

    name, _ = model_name(source)
    if name.startswith("local-dir:"):
        origin = Path(name.removeprefix("local-dir:"))
        for file in ("open_clip_config.json", *TOKENIZER_FILES):
            if (origin / file).is_file():
                shutil.copy(origin / file, folder / file)
        return
    words = getattr(getattr(network.backbone, "tokenizer", None), "tokenizer", None)
    if hasattr(words, "save_pretrained"):
        words.save_pretrained(folder)
    architecture = open_clip.get_model_config(name)
    if architecture is None:
        from huggingface_hub import hf_hub_download

        shutil.copy(hf_hub_download(name.removeprefix("hf-hub:"), "open_clip_config.json"), folder)
        return
    clip = network.backbone.clip
    # some weights (OpenAI's) need another activation than the architecture's configuration says
    quick = any(isinstance(module, open_clip.transformer.QuickGELU) for module in clip.modules())
    config = {"model_cfg": architecture | {"quick_gelu": quick}, "preprocess_cfg": clip.visual.preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
