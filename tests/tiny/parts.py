"""What the small pipelines share beside texts: waking, schedulers as published, video autoencoders."""

from typing import Any

import torch

CHAT = ("{% for m in messages %}{% if m.content is string %}{{ m.content }} {% else %}{% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.text }} {% endif %}{% endfor %}{% endif %}{% endfor %}")


def awake(network, std: float = 0.1):
    """Gives random values to what starts at zero (output layers, gates, tables, biases), which hides many mistakes."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=std)
    return network


def lively(network, *layers: str):
    """As `awake`, with larger weights and all of the named layers random.

    Attention is nearly flat as the classes start it, and output layers nearly zero: neither prompt nor position then
    moves the output by more than a test tolerates.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(layers):
                parameter.normal_(std=0.1)
            elif parameter.ndim > 1:
                parameter.mul_(2)
    return awake(network)


def image_vae(**changes):
    """AutoencoderKL with 4 channels at half of the size."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**({
        "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "norm_num_groups": 4,
        "layers_per_block": 1, "sample_size": 16} | changes))


def flow_euler(**options):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**options)


def chat(tokenizer: Any) -> Any:
    """The same tokenizer, with a chat template that prints the words and nothing else."""
    tokenizer.chat_template = CHAT
    return tokenizer


def qwen25_sizes(layers: int = 3) -> dict[str, Any]:
    """Of a text model of Qwen 2.5 VL."""
    return {"vocab_size": 200, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": layers,
            "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048,
            "initializer_range": 0.2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}}


def qwen25_vl(layers: int = 2, **ids: int):
    """ids: of the tokens of images, where the pipeline shows images to it."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
        text_config=qwen25_sizes(layers),
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
                       "patch_size": 14, "fullatt_block_indexes": [0]}, **ids))


def qwen_processor(tokenizer):
    """A processor of Qwen 2.5 VL that reads small images."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    return Qwen2VLProcessor(Qwen2VLImageProcessor(min_pixels=784, max_pixels=3136), tokenizer, Qwen2VLVideoProcessor(),
                            chat_template=tokenizer.chat_template)


def flow_unipc(shift: float):
    """As Wan 2.2 and Cosmos-Predict 2.5 are published with."""
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift,
                                   num_train_timesteps=1000)


def flow_dpm(shift: float):
    """As Sana and Sana-Video are published with."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift,
                                       num_train_timesteps=1000)


class Guard(torch.nn.Module):
    """Stands for the safety checker, which Cosmos's pipelines do not run without; it passes all."""

    dtype = torch.float32
    device = torch.device("cpu")

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames):
        return frames
