"""Train the autoencoder both tiny generators share: 64x64 images to 16x16 latents with 8 channels.

    python scripts/embedded/train_vae.py build/vae --minutes 10
    python scripts/embedded/train_vae.py build/vae-final --decoder-of build/vae --minutes 15

The second call improves the decoder alone, so that generators can already learn on the first one's latents.
The latents are normalised per channel afterwards and the normalisation folded into the 1x1 convolutions around
them, so that `scaling_factor` is exactly 1 and every pipeline reads them alike.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from common import load_pixels, load_rows, train_for
from diffusers import AutoencoderKL


def build() -> AutoencoderKL:
    return AutoencoderKL(in_channels=3, out_channels=3, latent_channels=8, block_out_channels=(24, 48, 96),
                         down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
                         layers_per_block=1, norm_num_groups=8, sample_size=64, scaling_factor=1.0,
                         shift_factor=0.0, force_upcast=False)


def augment(pixels: torch.Tensor) -> torch.Tensor:
    """Flips and small shifts: the codec should not care which emoji it sees."""
    if torch.rand(()) < 0.5:
        pixels = pixels.flip(-1)
    dy, dx = torch.randint(-3, 4, (2,)).tolist()
    return torch.roll(pixels, (dy, dx), (-2, -1))


def edges(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([(x[..., 1:, :-1] - x[..., :-1, :-1]), (x[..., :-1, 1:] - x[..., :-1, :-1])], 1)


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, pixels: torch.Tensor) -> None:
    mean_latents = vae.encode(pixels).latent_dist.mean
    mean, std = mean_latents.mean((0, 2, 3)), mean_latents.std((0, 2, 3))
    n = len(mean)
    encode, decode = vae.quant_conv, vae.post_quant_conv
    encode.weight[:n] /= std.view(-1, 1, 1, 1)
    encode.bias[:n] = (encode.bias[:n] - mean) / std
    encode.bias[n:] -= 2 * std.log()
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= std.view(1, -1, 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--decoder-of", type=Path, help="keep this autoencoder's encoder, train its decoder further")
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)

    pixels = load_pixels(load_rows())
    vae = AutoencoderKL.from_pretrained(args.decoder_of, torch_dtype=torch.float32) if args.decoder_of else build()
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()] if args.decoder_of else [*vae.parameters()]
    print(f"{sum(p.numel() for p in vae.parameters()) / 1e6:.2f}M parameters", flush=True)

    def loss_of(fraction: float) -> tuple[torch.Tensor, dict]:
        x = augment(pixels[torch.randint(len(pixels), (args.batch,))])
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not args.decoder_of):
                posterior = vae.encode(x).latent_dist
            z = posterior.sample()
            y = vae.decode(z + 0.05 * torch.randn_like(z)).sample.float()
        l1 = F.l1_loss(y, x)
        loss = l1 + 0.3 * F.mse_loss(y, x) + 0.5 * F.l1_loss(edges(y), edges(x)) + 1e-5 * posterior.kl().float().mean()
        return loss, {"l1": l1.item(), "latent std": z.float().std().item()}

    vae = train_for(args.minutes, vae, trained, loss_of, lr=1.5e-3, ema=0.995, warmup=300)
    if not args.decoder_of:
        fold_normalisation(vae, pixels[:256])
    held_out = load_pixels(load_rows("held_out"))
    with torch.no_grad():
        z = vae.encode(held_out).latent_dist.mean
        print(f"held-out L1 {F.l1_loss(vae.decode(z).sample, held_out).item():.4f}, "
              f"latent mean {z.mean().item():.3f} std {z.std().item():.3f}")
    vae.half().save_pretrained(args.output)


if __name__ == "__main__":
    main()
