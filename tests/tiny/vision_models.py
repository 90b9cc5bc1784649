"""A tiny random Idefics3, as SmolVLM is one, and folders of published vision-language models without weights."""

import json
import shutil
from pathlib import Path

import torch

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>",
           "<global-img>", *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7))]
CHAT = ("<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{% if m.content[0].type == 'image' %}:{% else %}: "
        "{% endif %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}"
        "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}")


def save_tiny_idefics(folder: Path, side: int = 32, patch: int = 8, scale: int = 2) -> Path:
    """side: of the squares that an image is cut into."""
    from tokenizers import pre_tokenizers
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
        Qwen2TokenizerFast,
    )

    torch.manual_seed(8)
    tokenizer = Qwen2TokenizerFast(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))},
                                   merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL, "pad_token": "<|endoftext|>",
                                  "eos_token": "<end_of_utterance>"})
    config = Idefics3Config(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
                     "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 256},
        vision_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": side, "patch_size": patch},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=scale, pad_token_id=256)
    images = Idefics3ImageProcessor(size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side})
    Idefics3Processor(images, tokenizer, image_seq_len=(side // patch // scale) ** 2,
                      chat_template=CHAT).save_pretrained(folder)
    Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def _qwen(hidden: int, inner: int, heads: int, layers: int, keys: int, words: int, tied: bool) -> dict:
    return {"model_type": "qwen2_5_vl", "hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads,
            "num_hidden_layers": layers, "num_key_value_heads": keys, "vocab_size": words, "tie_word_embeddings": tied,
            "rope_theta": 1e6, "rope_scaling": {"type": "default", "rope_type": "default",
                                                "mrope_section": [16, 24, 24]},
            "vision_config": {"model_type": "qwen2_5_vl", "hidden_size": 1280, "in_chans": 3, "out_hidden_size": hidden,
                              "spatial_patch_size": 14, "tokens_per_second": 2}}


def _smol(scale: int, text: dict, vision: dict) -> dict:
    return {"model_type": "idefics3", "scale_factor": scale, "pad_token_id": 128002,
            "text_config": {"model_type": "llama", "head_dim": 64, "pad_token_id": 2} | text,
            "vision_config": {"model_type": "idefics3"} | vision}


_SIGLIP_BASE = {"hidden_size": 768, "image_size": 512, "patch_size": 16, "num_attention_heads": 12,
                "num_hidden_layers": 12, "intermediate_size": 3072}
_SIGLIP_LARGE = {"hidden_size": 1152, "image_size": 384, "patch_size": 14, "num_attention_heads": 16,
                 "num_hidden_layers": 27, "intermediate_size": 4304}
PUBLISHED_VISION = {
    "Qwen2.5-VL-3B": (_qwen(2048, 11008, 16, 36, 2, 151936, True), 3_754_622_976),
    "Qwen2.5-VL-7B": (_qwen(3584, 18944, 28, 28, 4, 152064, False), 8_292_166_656),
    "SmolVLM-256M": (_smol(4, {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
                               "num_key_value_heads": 3, "num_hidden_layers": 30, "vocab_size": 49280}, _SIGLIP_BASE),
                     256_484_928),
    "SmolVLM-500M": (_smol(4, {"hidden_size": 960, "intermediate_size": 2560, "num_attention_heads": 15,
                               "num_key_value_heads": 5, "num_hidden_layers": 32, "vocab_size": 49280}, _SIGLIP_BASE),
                     507_482_304),
    "SmolVLM-2.2B": (_smol(3, {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
                               "vocab_size": 49155}, _SIGLIP_LARGE), 2_246_272_880),
}
"""The published configurations as far as they decide sizes, and the parameters of the published weights."""


def published_vision(name: str, folder: Path, tiny: Path) -> Path:
    """A folder of a published architecture without weights; its processor is a tiny model's of the same family, at the
    architecture's own image size."""
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings, ids = PUBLISHED_VISION[name][0], json.loads((tiny / "config.json").read_text())
    tokens = {key: value for key, value in ids.items() if key.endswith("_token_id") and key != "pad_token_id"}
    (folder / "config.json").write_text(json.dumps(settings | tokens))
    return folder
