"""Tokenizers and text encoders of the small pipelines."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "visalign" / "assets"

WORDS = ("a", "the", "red", "blue", "green", "yellow", "black", "pink", "square", "fruit", "cat", "face", "heart",
         "tree", "animal", "flower", "moves", "left", "right")


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
