"""Train tiny-wan's autoencoder: videos of 9 x 48x48 to latents of 5 x 12x12 with 12 channels.

    python scripts/embedded/train_wan_vae.py build/wan-vae --minutes 18
    python scripts/embedded/train_wan_vae.py build/wan-vae-final --decoder-of build/wan-vae --minutes 25

The second call improves the decoder alone, so that the generator can already learn on the first one's latents. What
normalises the latents is written into the configuration (`latents_mean`, `latents_std`), where Wan pipelines look.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from common import train_for
from diffusers import AutoencoderKLWan
from train_vae import edges
from wan_videos import draw_videos

CHANNELS, PATCH = 12, 2


def build() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=32, z_dim=CHANNELS, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True],
        in_channels=3 * PATCH**2, out_channels=3 * PATCH**2, patch_size=PATCH, scale_factor_temporal=2,
        scale_factor_spatial=4, latents_mean=[0.0] * CHANNELS, latents_std=[1.0] * CHANNELS)


def channels_last(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Convolutions over time run a third faster this way."""
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.Conv2d):
            layout = torch.channels_last_3d if module.weight.ndim == 5 else torch.channels_last
            module.weight.data = module.weight.data.contiguous(memory_format=layout)
    return vae


def windows(videos: torch.Tensor, batch: int) -> torch.Tensor:
    """Twice as many videos, cut to 5 frames of 32x32 near the middle: a quarter of the work for most that is drawn."""
    chosen = videos[torch.randint(len(videos), (2 * batch,))]
    first, top, left = (int(torch.randint(low, high, ())) for low, high in ((0, 5), (4, 13), (4, 13)))
    return chosen[:, :, first:first + 5, top:top + 32, left:left + 32]


def weights(x: torch.Tensor) -> torch.Tensor:
    """[B, 1, F, H, W]: what is drawn counts five times as much as the white around it; 1 on average."""
    drawn = 1 + 4 * (x.amin(1, keepdim=True) < 0.9).float()
    return drawn / drawn.mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=18)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--decoder-of", type=Path, help="keep this autoencoder's encoder, train its decoder further")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--windows", type=float, default=0.75, help="share of the time spent on windows of the videos")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)

    videos, _ = draw_videos(2400, seed=0)
    vae = AutoencoderKLWan.from_pretrained(args.decoder_of, torch_dtype=torch.float32) if args.decoder_of else build()
    channels_last(vae)
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()] if args.decoder_of else [*vae.parameters()]
    print(f"{sum(p.numel() for p in vae.parameters()) / 1e6:.2f}M parameters", flush=True)

    def loss_of(fraction: float) -> tuple[torch.Tensor, dict]:
        x = windows(videos, args.batch) if fraction < args.windows else videos[torch.randint(len(videos), (args.batch,
                                                                                                           ))]
        x = x.float() / 127.5 - 1
        x = (x.flip(-1) if torch.rand(()) < 0.5 else x).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not args.decoder_of):
                posterior = vae.encode(x).latent_dist
            z = posterior.sample()
            y = vae.decode(z + 0.05 * torch.randn_like(z)).sample.float()
        loss = ((weights(x) * ((y - x).abs() + 0.3 * (y - x) ** 2)).mean()
                + 0.5 * F.l1_loss(edges(y), edges(x)) + 1e-5 * posterior.kl().float().mean() / 5)
        return loss, {"l1": F.l1_loss(y, x).item(), "latent std": z.float().std().item()}

    vae = train_for(args.minutes, vae, trained, loss_of, lr=args.lr, ema=0.99)
    held_out = draw_videos(64, seed=1)[0].float() / 127.5 - 1
    with torch.no_grad():
        z = vae.encode(held_out).latent_dist.mode()
        print(f"held-out L1 {F.l1_loss(vae.decode(z).sample, held_out).item():.4f}")
        if not args.decoder_of:
            z = vae.encode(videos[:256].float() / 127.5 - 1).latent_dist.mode()
            vae.register_to_config(latents_mean=z.mean((0, 2, 3, 4)).tolist(), latents_std=z.std((0, 2, 3, 4)).tolist())
    for parameter in vae.parameters():
        parameter.data = parameter.data.contiguous()
    vae.save_pretrained(args.output)


if __name__ == "__main__":
    main()
