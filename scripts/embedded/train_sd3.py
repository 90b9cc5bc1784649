"""Train tiny-sd3: a complete StableDiffusion3Pipeline for 64x64 emoji, text encoders included, from scratch.

    python scripts/embedded/train_sd3.py build/tiny-sd3 --vae build/vae --minutes 40
    python scripts/embedded/train_sd3.py visalign/assets/tiny-sd3 --vae build/vae --minutes 30 \\
        --start-from build/tiny-sd3 --lr 8e-4 --ema 0.999 --seed 1

The shipped weights were trained so, on one busy core (about 3,000 and 2,300 steps). Minutes, not steps, are set, so a
faster machine gives a better model.

Rectified flow with logit-normal times (Esser et al. 2024); 10 % of captions dropped for guidance. The T5 encoder is
trained on token lengths from 8 to the pipeline's default of 256, so that a plain call works as it stands.
"""

import torch
import torch.nn.functional as F
from common import (
    EmojiLatents,
    all_captions,
    arguments,
    build_t5_tokenizer,
    build_tokenizer,
    clip_text_config,
    load_rows,
    pretrain,
    save_pipeline,
)
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

T5_LENGTHS, T5_WEIGHTS = (8, 16, 64, 256), (0.86, 0.06, 0.06, 0.02)


def main() -> None:
    args = arguments(__doc__)
    captions = all_captions(load_rows(None))
    tokenizer, t5_tokenizer = build_tokenizer(captions), build_t5_tokenizer(captions)
    vae = AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float32)
    modules = torch.nn.ModuleDict({
        "transformer": SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=8, out_channels=8, num_layers=6, attention_head_dim=32,
            num_attention_heads=6, joint_attention_dim=192, caption_projection_dim=192, pooled_projection_dim=192,
            pos_embed_max_size=16, qk_norm="rms_norm"),
        "text_encoder": CLIPTextModelWithProjection(clip_text_config(tokenizer)),
        "text_encoder_2": CLIPTextModelWithProjection(clip_text_config(tokenizer, hidden_act="gelu")),
        "text_encoder_3": T5EncoderModel(T5Config(
            vocab_size=len(t5_tokenizer), d_model=192, d_kv=32, d_ff=384, num_layers=2, num_heads=4,
            dropout_rate=0.0, feed_forward_proj="gated-gelu", is_encoder_decoder=False, dtype="float32")),
    })

    def encode(modules, texts, length):
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        outputs = [modules[k](ids, output_hidden_states=True) for k in ("text_encoder", "text_encoder_2")]
        video = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        pooled = torch.cat([output.text_embeds for output in outputs], -1)
        t5_ids = t5_tokenizer(texts, padding="max_length", max_length=length, truncation=True,
                              return_tensors="pt").input_ids
        return torch.cat([video, modules["text_encoder_3"](t5_ids).last_hidden_state], 1), pooled

    def loss_of(modules, x0, texts, rng):
        hidden, pooled = encode(modules, texts, rng.choices(T5_LENGTHS, T5_WEIGHTS)[0])
        t = torch.sigmoid(torch.randn(len(x0)))
        noise = torch.randn_like(x0)
        x_t = (1 - t.view(-1, 1, 1, 1)) * x0 + t.view(-1, 1, 1, 1) * noise
        velocity = modules["transformer"](x_t, hidden, pooled, 1000 * t, return_dict=False)[0]
        return F.mse_loss(velocity.float(), noise - x0)

    modules = pretrain(modules, loss_of, EmojiLatents(vae), args)
    save_pipeline(StableDiffusion3Pipeline(
        vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), tokenizer=tokenizer, tokenizer_2=tokenizer,
        tokenizer_3=t5_tokenizer, **modules), args.output)


if __name__ == "__main__":
    main()
