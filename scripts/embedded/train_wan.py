"""Train tiny-wan: a complete WanPipeline for 48x48 emoji videos of 9 frames, text encoder included, from scratch.

    python scripts/embedded/train_wan.py visalign/assets/tiny-wan --vae build/wan-vae --minutes 45
    python scripts/embedded/train_wan.py visalign/assets/tiny-wan --vae build/wan-vae-final --minutes 0 \\
        --start-from visalign/assets/tiny-wan

The second call puts in the improved decoder. Rectified flow with logit-normal times; the text encoder is trained on
token lengths from 8 to the pipeline's default of 512, so that a plain call works as it stands.
"""

import json

import torch
import torch.nn.functional as F
from common import arguments, build_t5_tokenizer, pretrain, save_pipeline
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel
from wan_videos import caption_of, draw_videos

from visalign.data.embedded_videos import FPS, FRAMES, SIZE, all_video_captions

LENGTHS, LENGTH_WEIGHTS = (8, 16, 64, 512), (0.9, 0.05, 0.04, 0.01)


class VideoLatents:
    """Videos drawn once, as normalised latents, with a way to draw a caption of each."""

    def __init__(self, vae, count: int):
        videos, self.pairs = draw_videos(count, seed=2)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            parts = [vae.encode(part.float() / 127.5 - 1).latent_dist.mode().float() for part in videos.split(32)]
        self.latents = (torch.cat(parts) - mean) / std

    def caption(self, index: int, rng) -> str:
        return caption_of(*self.pairs[index], rng)


def main() -> None:
    args = arguments(__doc__, videos=4000)
    tokenizer = build_t5_tokenizer(all_video_captions(), max_length=512)
    vae = AutoencoderKLWan.from_pretrained(args.vae, torch_dtype=torch.float32)
    modules = torch.nn.ModuleDict({
        "transformer": WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=6, attention_head_dim=32, in_channels=vae.config.z_dim,
            out_channels=vae.config.z_dim, text_dim=192, freq_dim=128, ffn_dim=768, num_layers=6,
            rope_max_seq_len=64),
        "text_encoder": UMT5EncoderModel(UMT5Config(
            vocab_size=len(tokenizer), d_model=192, d_kv=32, d_ff=384, num_layers=2, num_heads=4, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", is_encoder_decoder=False, dtype="float32")),
    })

    def encode(modules, texts, length):
        tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        hidden = modules["text_encoder"](tokens.input_ids, tokens.attention_mask).last_hidden_state
        return hidden * tokens.attention_mask[..., None]  # the pipeline zeroes what is padding

    def loss_of(modules, x0, texts, rng):
        hidden = encode(modules, texts, rng.choices(LENGTHS, LENGTH_WEIGHTS)[0])
        t = torch.sigmoid(torch.randn(len(x0)) + 0.5)  # motion is decided at the noisier times
        noise = torch.randn_like(x0)
        x_t = torch.lerp(x0, noise, t.view(-1, 1, 1, 1, 1))
        velocity = modules["transformer"](x_t, 1000 * t, hidden, return_dict=False)[0]
        return F.mse_loss(velocity.float(), noise - x0)

    modules = pretrain(modules, loss_of, VideoLatents(vae, args.videos if args.minutes else 1), args)
    save_pipeline(WanPipeline(vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), tokenizer=tokenizer,
                              **modules), args.output)
    shape = {"height": SIZE, "width": SIZE, "frames": FRAMES, "fps": FPS, "steps": 20, "guidance_scale": 3.0}
    (args.output / "visalign.json").write_text(json.dumps(shape) + "\n")


if __name__ == "__main__":
    main()
