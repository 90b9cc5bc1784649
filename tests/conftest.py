"""Tiny random pipelines of the real classes, and a preference set of coloured squares."""

import functools
import io
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and the networks are small
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from PIL import Image

from tests import video_pipelines
from tests.programs import together
from visalign.media.samples import Video
from visalign.media.video_files import to_video_bytes

os.environ.setdefault("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
ASSETS = Path(__file__).resolve().parents[1] / "visalign" / "assets"


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(ASSETS / "tiny-clip")


def _clip(kind, tokenizer, width=16, length=16):
    from transformers import CLIPTextConfig

    return kind(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=length, projection_dim=width, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))


def _vae(**changes):
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                         up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
                         layers_per_block=1, sample_size=16, **changes)


def _unet(**changes):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**({
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 16, "attention_head_dim": 2,
        "norm_num_groups": 4} | changes))


def build_sd3(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(1)
    tokenizer = _tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
        pos_embed_max_size=8)
    with torch.no_grad():  # the output layer starts at zero otherwise, which hides many mistakes
        transformer.proj_out.weight.normal_(std=0.1)
        for parameter in transformer.norm_out.parameters():
            parameter.normal_(std=0.1)
    StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=_clip(CLIPTextModelWithProjection, tokenizer), tokenizer=tokenizer,
        text_encoder_2=_clip(CLIPTextModelWithProjection, tokenizer), tokenizer_2=tokenizer,
        text_encoder_3=_t5(), tokenizer_3=tokenizer).save_pretrained(folder)
    return folder


def _t5():
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=1400, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                   is_encoder_decoder=False))


def build_flux(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    torch.manual_seed(4)
    tokenizer = _tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True)
    with torch.no_grad():
        transformer.proj_out.weight.normal_(std=0.1)
        for parameter in transformer.norm_out.parameters():
            parameter.normal_(std=0.1)
    FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(scaling_factor=1.5, shift_factor=0.06), text_encoder=_clip(CLIPTextModel, tokenizer),
        tokenizer=tokenizer, text_encoder_2=_t5(), tokenizer_2=tokenizer).save_pretrained(folder)
    return folder


def build_sdxl(folder: Path, width: int = 16) -> Path:
    """width: of the second text encoder; it is told from the first by it in single files."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(2)
    tokenizer = _tokenizer()
    StableDiffusionXLPipeline(
        unet=_unet(cross_attention_dim=16 + width, addition_embed_type="text_time", addition_time_embed_dim=4,
                   projection_class_embeddings_input_dim=width + 24),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                         timestep_spacing="leading", steps_offset=1),
        vae=_vae(), text_encoder=_clip(CLIPTextModel, tokenizer), tokenizer=tokenizer,
        text_encoder_2=_clip(CLIPTextModelWithProjection, tokenizer, width),
        tokenizer_2=tokenizer).save_pretrained(folder)
    return folder


def build_sd15(folder: Path, prediction_type: str = "epsilon") -> Path:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(3)
    tokenizer = _tokenizer()
    StableDiffusionPipeline(
        unet=_unet(), vae=_vae(), text_encoder=_clip(CLIPTextModel, tokenizer), tokenizer=tokenizer,
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)
    return folder


def build_hunyuan(folder: Path) -> Path:
    from transformers import CLIPTextModel

    tokenizer = _tokenizer()
    return video_pipelines.build_hunyuan(folder, _clip(CLIPTextModel, tokenizer, length=77), tokenizer)


BUILDERS = {"sd3": build_sd3, "flux": build_flux, "sdxl": build_sdxl, "sd15": build_sd15,
            "sdxl-two-widths": lambda folder: build_sdxl(folder, 32),
            "sd15-v": lambda folder: build_sd15(folder, "v_prediction"), "wan": video_pipelines.build_wan,
            "wan-image": video_pipelines.build_wan_image,
            "ltx": video_pipelines.build_ltx, "hunyuan": build_hunyuan, "cogvideox": video_pipelines.build_cogvideox}


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """Folder of a tiny random pipeline by name, built on first use."""
    root, built = tmp_path_factory.mktemp("pipelines"), {}

    def get(name: str) -> Path:
        if name not in built:
            built[name] = BUILDERS[name](root / name)
        return built[name]

    return get


DIFFUSION = {"sdxl", "sd15", "sd15-v", "cogvideox"}
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 180, 70), "yellow": (240, 210, 40),
           "black": (10, 10, 10), "pink": (240, 150, 190)}


@pytest.fixture
def undrawn(monkeypatch):
    """Charts are put together and not drawn: half of a tiny run's time is matplotlib's."""
    from matplotlib.figure import Figure

    def save(figure, file, **options):
        empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>'
        file.write(empty if isinstance(file, io.TextIOBase) else empty.encode())

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def two_processes(tmp_path):
    """Runs Python code in two processes as under torchrun; the code finds the arguments in sys.argv[1:]."""
    return functools.partial(together, folder=tmp_path)


@pytest.fixture
def pairs_file(tmp_path) -> Path:
    """A JSONL set of six pairs: the chosen image has the prompt's colour, the rejected one another."""
    lines, names = [], list(COLOURS)
    for i, name in enumerate(names):
        for kind, colour in (("chosen", name), ("rejected", names[i - 1])):
            Image.new("RGB", (24, 20), COLOURS[colour]).save(tmp_path / f"{name}-{kind}.png")
        lines.append(json.dumps({"prompt": f"a {name} square", "chosen": f"{name}-chosen.png",
                                 "rejected": f"{name}-rejected.png", "chosen_reward": 1.0 + i, "rejected_reward": 0.1}))
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def video_pairs_file(tmp_path) -> Path:
    """A CSV with VideoGen-RewardBench's columns: six comparisons of short videos in VQ, MQ and TA."""
    rows = ["path_A,path_B,prompt,VQ,MQ,TA"]
    for i, name in enumerate(COLOURS):
        for side, colour in (("A", name), ("B", list(COLOURS)[i - 1])):
            frames = [Image.new("RGB", (20, 16), "white") for _ in range(5)]
            for k, frame in enumerate(frames):
                frame.paste(COLOURS[colour], (2 * k, 4, 2 * k + 8, 12))
            (tmp_path / f"{name}-{side}.mp4").write_bytes(to_video_bytes(Video(frames, 8.0)))
        rows.append(f"{name}-A.mp4,{name}-B.mp4,a {name} square moves right,A,{'same' if i % 2 else 'B'},A")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "clips.csv"


@pytest.fixture
def online_recipe(tmp_path, pipelines):
    """Writes a small online recipe as YAML; keyword arguments merge into its sections."""
    import yaml

    def write(base: str = "sd3", method: str = "grpo", /, name: str = "recipe.yaml", **sections) -> Path:
        stochastic = {"sampler": "ddim", "noise_level": 1.0} if base in DIFFUSION else {}
        content = {
            "model": {"source": str(pipelines(base)), "resolution": 16, "lora": {"rank": 2, "alpha": 4},
                      "precision": "fp32", "prompt_tokens": 8} | video_pipelines.SHAPES.get(base, {}),
            "rollout": {"prompts": str(tmp_path / "train.txt"), "prompts_per_epoch": 2, "group_size": 4,
                        "batch_size": 4, "steps": 4, "cache": str(tmp_path / "cache")} | stochastic,
            "reward": {"models": "colourfulness", "retry_wait": 0.01},
            "objective": {"name": method},
            "optim": {"lr": 0.001},
            "train": {"epochs": 3, "batch_size": 4, "device": "cpu"},
            "eval": {"prompts": str(tmp_path / "prompts.txt"), "max_prompts": 2, "steps": 2, "guidance_scale": 1.0,
                     "reward": "colourfulness", "also": ["contrast"], "features": "tiny-clip"},
            "output": {"folder": str(tmp_path / "run"), "trackers": []},
        }
        for section, values in sections.items():
            content[section] = content.get(section, {}) | values
        (tmp_path / "train.txt").write_text("a red fruit\na cat face\na blue heart\na green tree\n")
        (tmp_path / "prompts.txt").write_text("an animal\na flower\n")
        (tmp_path / name).write_text(yaml.safe_dump(content))
        return tmp_path / name

    return write


@pytest.fixture
def recipe(tmp_path, pairs_file, video_pairs_file, pipelines):
    """Writes a small recipe as YAML; keyword arguments replace whole sections or merge into them."""
    import yaml

    def write(base: str = "sd3", method: str | None = None, /, name: str = "recipe.yaml", **sections) -> Path:
        method = method or ("diffusion_dpo" if base in DIFFUSION else "flow_dpo")
        shape = video_pipelines.SHAPES.get(base, {})
        content = {
            "model": {"source": str(pipelines(base)), "lora": {"rank": 2, "alpha": 4}, "precision": "fp32",
                      "prompt_tokens": 8} | shape,
            "data": {"path": str(video_pairs_file if shape else pairs_file), "cache": str(tmp_path / "cache"),
                     "holdout": 0.5},
            "objective": {"name": method},
            "optim": {"lr": 0.001},
            "train": {"steps": 4, "batch_size": 2, "device": "cpu"},
            "eval": {"prompts": str(tmp_path / "prompts.txt"), "max_prompts": 2, "steps": 2, "guidance_scale": 1.0,
                     "reward": "tiny-clip", "features": "tiny-clip"},
            "output": {"folder": str(tmp_path / "run"), "checkpoint_every": 2, "trackers": []},
        }
        for section, values in sections.items():
            content[section] = content.get(section, {}) | values
        (tmp_path / "prompts.txt").write_text("a red fruit\na cat face\n")
        (tmp_path / name).write_text(yaml.safe_dump(content))
        return tmp_path / name

    return write
