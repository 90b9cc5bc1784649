"""Train tiny-sdxl: a complete StableDiffusionXLPipeline for 64x64 emoji, from scratch.

    python scripts/embedded/train_sdxl.py visalign/assets/tiny-sdxl --vae build/vae --minutes 40

Epsilon prediction on SDXL's own noise schedule, loss weighted by min-SNR-5 (Hang et al. 2023). A dropped caption is
an all-zero embedding, as `force_zeros_for_empty_prompt` has it in the pipeline.
"""

import torch
from common import (
    EmojiLatents,
    all_captions,
    arguments,
    build_tokenizer,
    clip_text_config,
    load_rows,
    pretrain,
    save_pipeline,
)
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection


def main() -> None:
    args = arguments(__doc__)
    tokenizer = build_tokenizer(all_captions(load_rows(None)))
    vae = AutoencoderKL.from_pretrained(args.vae, torch_dtype=torch.float32)
    modules = torch.nn.ModuleDict({
        "unet": UNet2DConditionModel(
            sample_size=16, in_channels=8, out_channels=8, block_out_channels=(80, 160), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=1, attention_head_dim=(4, 8), cross_attention_dim=192, norm_num_groups=16,
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=16,
            projection_class_embeddings_input_dim=96 + 6 * 16),
        "text_encoder": CLIPTextModel(clip_text_config(tokenizer)),
        "text_encoder_2": CLIPTextModelWithProjection(clip_text_config(tokenizer, hidden_act="gelu")),
    })
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                       timestep_spacing="leading", steps_offset=1)
    alphas_cumprod = scheduler.alphas_cumprod
    time_ids = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])

    def encode(modules, texts):
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        outputs = [modules[k](ids, output_hidden_states=True) for k in ("text_encoder", "text_encoder_2")]
        kept = torch.tensor([float(text != "") for text in texts]).view(-1, 1)
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        return hidden * kept[..., None], outputs[1].text_embeds * kept

    def loss_of(modules, x0, texts, rng):
        hidden, pooled = encode(modules, texts)
        t = torch.randint(0, 1000, (len(x0),))
        alpha_bar = alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(x0)
        x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
        added = {"text_embeds": pooled, "time_ids": time_ids.expand(len(x0), -1)}
        epsilon = modules["unet"](x_t, t, hidden, added_cond_kwargs=added, return_dict=False)[0]
        snr = (alpha_bar / (1 - alpha_bar)).flatten()
        return ((epsilon.float() - noise).square().mean((1, 2, 3)) * snr.clamp(max=5) / snr).mean()

    modules = pretrain(modules, loss_of, EmojiLatents(vae), args)
    save_pipeline(StableDiffusionXLPipeline(vae=vae, scheduler=scheduler, tokenizer=tokenizer, tokenizer_2=tokenizer,
                                            **modules), args.output)


if __name__ == "__main__":
    main()
