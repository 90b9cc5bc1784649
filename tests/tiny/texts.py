"""Tokenizers and text encoders of the small pipelines."""

from pathlib import Path

from tests.tiny.parts import chat

ASSETS = Path(__file__).resolve().parents[2] / "visalign" / "assets"

WORDS = ("a", "the", "red", "blue", "green", "yellow", "black", "pink", "square", "fruit", "cat", "face", "heart",
         "tree", "animal", "flower", "moves", "left", "right")
VISION = {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
          "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
SYSTEM = """{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}{{ part.text }}
{%- endfor %}{% endif %}<|im_end|>
{% endfor %}"""  # a chat template that prints roles as Qwen's does


def clip_tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(ASSETS / "tiny-clip")


def clip_encoder(kind, tokenizer, width=16, length=16):
    from transformers import CLIPTextConfig

    return kind(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=length, projection_dim=width, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))


def word_tokenizer(words=WORDS):
    """Words, and single characters for all else."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -6.0), *(("\u2581" + w, -4.0) for w in words),
              *((chr(c), -8.0) for c in range(33, 127))]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=1024)


def template_tokenizer(template: str, length: int):
    """A tokenizer that knows so many of the template's words that it cuts the template into about `length` tokens."""
    words = [w for w in dict.fromkeys(template.replace("{}", "").split()) if w not in WORDS]
    for known in range(len(words) + 1):
        tokenizer = word_tokenizer((*WORDS, *sorted(words, key=len, reverse=True)[:known]))
        found = len(tokenizer(template.split("{}")[0], add_special_tokens=False).input_ids)
        if found <= length + 4:
            assert found >= length
            return tokenizer
    raise AssertionError(f"{found} tokens")


def t5(vocabulary: int = 200):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                   is_encoder_decoder=False))


def chat_tokenizer(*templates: str):
    """One for chat models that knows the words of the texts which pipelines put around prompts."""
    return chat(word_tokenizer(tuple(dict.fromkeys((*WORDS, *" ".join(templates).split())))))


def seeing(tokenizer):
    """The same tokenizer with Qwen's tokens of images, and their ids as a text encoder's configuration names them."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(VISION.values())})
    return tokenizer, {name: tokenizer.convert_tokens_to_ids(token) for name, token in VISION.items()}


def umt5(vocabulary: int = 200):
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                       is_encoder_decoder=False))


def _decoder(**changes) -> dict:
    return {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1} | changes


def qwen3(layers: int = 3, width: int = 32):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_decoder(num_hidden_layers=layers, hidden_size=width)))


def gemma2():
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(Gemma2Config(**_decoder(query_pre_attn_scalar=16, sliding_window=1024)))


def glm():
    from transformers import GlmConfig, GlmModel

    return GlmModel(GlmConfig(**_decoder()))


def llama(layers: int = 2):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_decoder(num_hidden_layers=layers)))


def mistral3(layers: int, width: int):
    """With eyes, that FLUX.2 only uses to improve prompts."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    return Mistral3ForConditionalGeneration(Mistral3Config(
        text_config=_decoder(model_type="mistral", num_hidden_layers=layers, hidden_size=width),
        vision_config={"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                       "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        spatial_merge_size=1, image_token_index=10))


def _qwen3_vl_config(layers: int, **ids: int):
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        text_config=_decoder(hidden_size=16, head_dim=8, num_hidden_layers=layers, rope_parameters={
            "rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 1e4}),
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
                       "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}, **ids)


def qwen3_vl(layers: int = 2):
    from transformers import Qwen3VLModel

    return Qwen3VLModel(_qwen3_vl_config(layers))


def qwen3_vl_writer(layers: int = 2, **ids: int):
    """With the head that writes words. ids: of the tokens of images."""
    from transformers import Qwen3VLForConditionalGeneration

    return Qwen3VLForConditionalGeneration(_qwen3_vl_config(layers, **ids))


def qwen3_processor(tokenizer):
    """A token of an image is 32 x 32 pixels, so that it has as many as a fourth of its latents."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    eyes = Qwen2VLImageProcessor(patch_size=16, min_pixels=32 * 32, max_pixels=128 * 128)
    return Qwen3VLProcessor(eyes, tokenizer, Qwen3VLVideoProcessor(), chat_template=SYSTEM)
