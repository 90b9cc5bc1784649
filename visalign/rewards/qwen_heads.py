"""HPSv3 and VideoReward: Qwen2-VL with special tokens whose last hidden states a small head turns into rewards.

Their authors trained with one exact instruction text, which is not in this package: put it into a text file with
`{prompt}` for the prompt and the special tokens in their places, and name it as `template`. Another wording runs, but
gives other numbers than the published ones.
"""

import json
import math
import re
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.hub_clip import check_hub_or_folder, published_file, published_weights
from visalign.rewards.sizes import of_transformers
from visalign.storage.pretrained import check_processor, load_whole
from visalign.storage.text_files import read_text

PATCH = 28
"""Qwen2-VL's patch of 14 pixels times its merge of 2: image sides are multiples of it."""
LEAST_PIXELS = 128 * PATCH * PATCH
LEAST_FRAMES, MOST_FRAMES = 4, 768
"""Bounds of a video's frames in VideoReward's own code: at least 100,352 pixels per frame."""


def smart_size(width: int, height: int, least: int, most: int) -> tuple[int, int]:
    """(width, height) as multiples of PATCH with about the same shape and least <= area <= most."""
    def whole(sides: tuple[float, float], rounding) -> tuple[int, int]:
        return tuple(max(PATCH, int(rounding(side / PATCH)) * PATCH) for side in sides)

    size = whole((width, height), round)
    if size[0] * size[1] > most:
        shrink = math.sqrt(width * height / most)
        return whole((width / shrink, height / shrink), math.floor)
    if size[0] * size[1] < least:
        grow = math.sqrt(least / (width * height))
        return whole((width * grow, height * grow), math.ceil)
    return size


def fit_frame(frame: Image.Image, least: int, most: int) -> Image.Image:
    """As `fit_to_budget`, but as a tensor: Pillow clips between its two passes, which moves sharp edges (25 of 255)."""
    from torchvision.transforms.functional import InterpolationMode, pil_to_tensor, resize, to_pil_image

    width, height = smart_size(*frame.size, least, most)
    pixels = pil_to_tensor(frame.convert("RGB"))
    return to_pil_image(resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True))


def even_count(total: int, fps: float, rate: float, asked: int | None) -> int:
    """How many of a video's `total` frames VideoReward uses: `asked`, or `rate` per second and at least 4.

    Rounded to even as Python rounds (2.5 pairs are 2, 3.5 are 4), and never more than the video has.
    """
    if asked:
        return min(total, max(2, 2 * round(asked / 2)))
    wanted = min(max(total / fps * rate, LEAST_FRAMES), 2 * (min(MOST_FRAMES, total) // 2))
    return min(total, 2 * round(wanted / 2))


def fit_to_budget(image: Image.Image, least: int, most: int) -> Image.Image:
    return image.convert("RGB").resize(smart_size(*image.size, least, most), Image.Resampling.BICUBIC)


def merged(weights: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A checkpoint's weights under today's names, LoRA products (times `scale`) added to what they adapt.

    A key that ends in `+` holds such a product for a weight that the checkpoint itself does not have.
    """
    plain: dict[str, Tensor] = {}
    low: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        key = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
        if ".original_module." in key:
            continue
        key = key.replace(".modules_to_save.default.", ".")
        key = re.sub(r"^visual\.", "model.visual.", key)
        key = re.sub(r"^model\.(?!language_model|visual)", "model.language_model.", key)
        adapter = re.match(r"(.*)\.lora_([AB])(?:\.default)?\.weight$", key)
        if adapter:
            low.setdefault(adapter[1] + ".weight", {})[adapter[2]] = value
        else:
            plain[key] = value
    for key, pair in low.items():
        change = scale * (pair["B"].float() @ pair["A"].float())
        if key in plain:
            plain[key] = plain[key].float() + change
        else:
            plain[key + "+"] = change
    return plain


def reward_head(weights: dict[str, Tensor]) -> nn.Module:
    """`rm_head`: one linear layer, or linear layers with ReLU between them, by the names in the checkpoint."""
    own = {key.removeprefix("rm_head."): value.float() for key, value in weights.items() if key.startswith("rm_head.")}
    if "weight" in own:
        head: nn.Module = nn.Linear(*reversed(own["weight"].shape), bias="bias" in own)
        head.load_state_dict(own)
        return head
    places = sorted({int(key.split(".")[0]) for key in own})
    stack: list[nn.Module] = []
    for place in places:
        layer = nn.Linear(*reversed(own[f"{place}.weight"].shape), bias=f"{place}.bias" in own)
        layer.load_state_dict({k.split(".")[1]: v for k, v in own.items() if int(k.split(".")[0]) == place})
        stack += [layer, nn.ReLU()]
    return nn.Sequential(*stack[:-1])


@dataclass
class TokenReward(RewardModel):
    """Base: builds Qwen2-VL from `base`, applies the published weights, reads the head at the special tokens."""

    template: str = ""
    precision: str = "bf16"

    needs_prompt = True
    tokens: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        super().__post_init__()
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        self.batch_size = min(self.batch_size, 4)

    @abstractmethod
    def base_source(self) -> str:
        """Hub id or folder of the untuned Qwen2-VL."""

    @abstractmethod
    def published(self) -> tuple[dict[str, Tensor], str]:
        """Merged weights, and what to call their source in a message."""

    def check(self) -> None:
        path = Path(self.template).expanduser()
        if not self.template or not path.is_file():
            raise UserError(f"reward {self.name}: set template to a text file with the instruction its authors "
                            f"published, {{prompt}} for the prompt and the token(s) {' '.join(self.tokens)}")
        text = read_text(path, f"reward {self.name}: {path}")
        missing = [word for word in ("{prompt}", *self.tokens) if word not in text]
        if missing:
            raise UserError(f"reward {self.name}: template {path} has no {missing[0]}")
        check_hub_or_folder(self.base_source(), "config.json", self.name)
        check_processor(self.base_source(), f"reward {self.name}")

    def held_bytes(self) -> int | None:
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return of_transformers("Qwen2VLModel", self.base_source(), dtype)

    def load(self) -> nn.Module:
        from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

        self.instruction = read_text(self.template, f"reward {self.name}: {self.template}")
        self.processor = AutoProcessor.from_pretrained(self.base_source(), padding_side="right")
        self.processor.tokenizer.add_special_tokens({"additional_special_tokens": list(self.tokens)})
        self.token_ids = self.processor.tokenizer.convert_tokens_to_ids(list(self.tokens))
        model = load_whole(Qwen2VLForConditionalGeneration, self.base_source(), f"reward {self.name}",
                           dtype=torch.float32)
        model.resize_token_embeddings(len(self.processor.tokenizer), mean_resizing=False)
        weights, source = self.published()
        head = reward_head(weights)
        state = model.state_dict()
        for key, value in weights.items():
            name = key.removesuffix("+")
            if name.startswith(("rm_head.", "lm_head.")):  # the language head is not used by a reward
                continue
            if name not in state or state[name].shape != value.shape:
                raise UserError(f"reward {self.name}: {source} does not fit {self.base_source()}, {name} is missing or "
                                "has another shape there")
            state[name].copy_(state[name] + value if key.endswith("+") else value)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return nn.ModuleDict({"model": model.model.to(dtype), "head": head}).eval()

    @abstractmethod
    def inputs(self, samples: list[Sample]) -> dict[str, Tensor]:
        """The processor's inputs for samples and instruction."""

    def message(self, sample: Sample, kind: str) -> str:
        text = self.instruction.replace("{prompt}", sample.prompt)
        return self.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": text}]}], tokenize=False,
            add_generation_prompt=True)

    def outputs(self, samples: list[Sample]) -> Tensor:
        """The head's output at each special token, float32 [n, tokens, outputs]."""
        network: Any = self.network
        batch = {name: tensor.to(self.device) for name, tensor in self.inputs(samples).items()}
        hidden = network["model"](**batch).last_hidden_state
        ids = batch["input_ids"]
        rows = []
        for i in range(len(samples)):
            places = [(ids[i] == token).nonzero().flatten() for token in self.token_ids]
            rows.append(torch.stack([hidden[i, place[-1]] for place in places]))
        return network["head"](torch.stack(rows).float())


@dataclass
class HPSv3(TokenReward):
    """HPS v3 (Ma et al. 2025): Qwen2-VL-7B regression with mean and sigma, about 0 to 15.

    source: hub id, folder or file of `HPSv3.safetensors`. base: the untuned Qwen2-VL. template: a file with the
    published instruction.
    """

    source: str = "MizzenAI/HPSv3"
    base: str = "Qwen/Qwen2-VL-7B-Instruct"

    dimensions = ("preference",)
    tokens = ("<|Reward|>",)
    pixels = 256 * PATCH * PATCH

    def check(self) -> None:
        super().check()
        if not Path(self.source).expanduser().is_file():
            check_hub_or_folder(self.source, "HPSv3.safetensors", self.name)

    def base_source(self) -> str:
        return self.base

    def published(self) -> tuple[dict[str, Tensor], str]:
        path = published_file(self.source, "HPSv3.safetensors", self.name)
        return merged(published_weights(path, self.name), 1.0), str(path)

    def inputs(self, samples: list[Sample]) -> dict[str, Tensor]:
        images = [fit_to_budget(sample.image, self.pixels, self.pixels) for sample in samples]
        return dict(self.processor(text=[self.message(sample, "image") for sample in samples], images=images,
                                   padding=True, return_tensors="pt", images_kwargs={"do_resize": False}))

    def score_batch(self, samples: list[Sample]) -> Scores:
        output = self.outputs(samples)[:, 0]
        return Scores(output[:, :1], spread=output[:, 1:2].exp())  # the second output is log sigma


@dataclass
class VideoReward(TokenReward):
    """VideoReward (Liu et al. 2025): Qwen2-VL-2B with three tokens for VQ, MQ and TA, standardised; overall: their sum.

    source: the published folder with `model_config.json` and `checkpoint-*`. base: the untuned Qwen2-VL (None: as the
    configuration says). template: a file with the published instruction.
    """

    source: str = "KwaiVGI/VideoReward"
    base: str | None = None

    modalities = frozenset({"video"})
    dimensions = ("VQ", "MQ", "TA", "overall")
    tokens = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")

    def _folder(self) -> Path:
        folder = Path(self.source).expanduser()
        if folder.is_dir():
            return folder
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.source))
        except Exception as error:  # the hub raises many kinds of errors; to the user all mean the same
            raise UserError(f"reward {self.name}: no local folder {self.source}, and the hub did not give it "
                            f"({type(error).__name__})") from error

    @property
    def settings(self) -> dict[str, Any]:
        if not hasattr(self, "_settings"):
            path = self._folder() / "model_config.json"
            try:
                self._settings = json.loads(path.read_text())
                self._settings["data_config"], self._settings["model_config"]  # noqa: B018
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise UserError(f"reward {self.name}: {path} is not VideoReward's configuration ({error})") from None
            sampled = self._settings["data_config"].get("sample_type", "uniform")
            if sampled != "uniform":
                raise UserError(f"reward {self.name}: {path} takes frames by {sampled!r}; only 'uniform' is known here")
        return self._settings

    def check(self) -> None:
        check_hub_or_folder(self.source, "model_config.json", self.name)
        super().check()

    def base_source(self) -> str:
        if self.base:
            return self.base
        if not Path(self.source).expanduser().is_dir():
            return "Qwen/Qwen2-VL-2B-Instruct"
        return self.settings["model_config"]["model_name_or_path"]

    def published(self) -> tuple[dict[str, Tensor], str]:
        folder = self._folder()
        checkpoints = sorted((p for p in folder.glob("checkpoint-*")), key=lambda p: int(p.name.split("-")[-1]))
        home = checkpoints[-1] if checkpoints else folder
        weights: dict[str, Tensor] = {}
        for name in ("model.pth", "adapter_model.safetensors", "non_lora_state_dict.pth"):
            if (home / name).is_file():
                weights |= published_weights(home / name, self.name)
        if not any("rm_head" in key for key in weights):
            raise UserError(f"reward {self.name}: {home} holds no model.pth (or adapter_model.safetensors with "
                            "non_lora_state_dict.pth) with a reward head")
        lora = self.settings.get("peft_lora_config") or {}
        rank, alpha = lora.get("lora_r", 16), lora.get("lora_alpha", 32)
        return merged(weights, alpha / (rank**0.5 if lora.get("use_rslora") else rank)), str(home)

    def refusal(self, sample: Sample) -> str | None:
        few = sample.video is not None and len(sample.video.frames) < 2
        return super().refusal(sample) or ("a video of one frame has no motion; at least 2 are needed" if few else None)

    def frames_of(self, sample: Sample) -> list[Image.Image]:
        """Evenly spaced frames, their area between the authors' minimum and the configured maximum."""
        data, video = self.settings["data_config"], sample.video
        total = len(video.frames)
        count = even_count(total, video.fps, data.get("fps") or 2.0, data.get("num_frames"))
        places = torch.linspace(0, total - 1, count).round().long().tolist()
        frames = [fit_frame(video.frames[i], LEAST_PIXELS, data.get("max_frame_pixels") or 448 * 448) for i in places]
        return frames + frames[-1:] * (len(frames) % 2)

    def inputs(self, samples: list[Sample]) -> dict[str, Tensor]:
        return dict(self.processor(text=[self.message(sample, "video") for sample in samples],
                                   videos=[self.frames_of(sample) for sample in samples], padding=True,
                                   return_tensors="pt", videos_kwargs={"do_resize": False, "do_sample_frames": False}))

    def score_batch(self, samples: list[Sample]) -> Tensor:
        raw = self.outputs(samples)
        raw = raw[..., 0] if raw.shape[-1] == 1 else raw.diagonal(dim1=1, dim2=2)
        known = self.settings.get("inference_config") or {}
        mean = torch.tensor([known.get(f"{name}_mean", 0.0) for name in self.dimensions[:3]])
        std = torch.tensor([known.get(f"{name}_std", 1.0) for name in self.dimensions[:3]])
        scores = (raw.cpu() - mean) / std
        return torch.cat([scores, scores.sum(1, keepdim=True)], 1)
