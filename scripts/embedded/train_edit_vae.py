"""Train tiny-edit's autoencoder: that of tiny-sd3, taught coloured backgrounds and edited drawings as well.

    python scripts/embedded/train_edit_vae.py build/edit-vae --minutes 7
    python scripts/embedded/train_edit_vae.py build/edit-vae-final --decoder-of build/edit-vae --minutes 8

The second call improves the decoder alone, so that the generator can already learn on the first one's latents.
"""

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from common import ASSETS, load_rows, train_for
from diffusers import AutoencoderKL
from edit_data import as_pixels, draw_edits
from train_vae import edges, fold_normalisation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--decoder-of", type=Path, help="keep this autoencoder's encoder, train its decoder further")
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sources, targets, _ = draw_edits(3, 2, seed=1)
    pixels = as_pixels(sources + targets)
    vae = AutoencoderKL.from_pretrained(args.decoder_of or ASSETS / "tiny-sd3" / "vae", torch_dtype=torch.float32)
    vae.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()] if args.decoder_of else [*vae.parameters()]
    print(f"{len(load_rows())} drawings, {len(pixels)} images", flush=True)
    rng = random.Random(0)

    def loss_of(fraction: float) -> tuple[torch.Tensor, dict]:
        x = pixels[rng.sample(range(len(pixels)), args.batch)].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not args.decoder_of):
                posterior = vae.encode(x).latent_dist
            z = posterior.sample()
            y = vae.decode(z + 0.05 * torch.randn_like(z)).sample.float()
        l1 = F.l1_loss(y, x)
        loss = l1 + 0.3 * F.mse_loss(y, x) + 0.5 * F.l1_loss(edges(y), edges(x)) + 1e-5 * posterior.kl().float().mean()
        return loss, {"l1": l1.item(), "latent std": z.float().std().item()}

    vae = train_for(args.minutes, vae, trained, loss_of, lr=1e-3, ema=0.99, warmup=300)
    if not args.decoder_of:
        fold_normalisation(vae, pixels[torch.randperm(len(pixels))[:512]])
    with torch.no_grad():
        z = vae.encode(pixels[:128]).latent_dist.mean
        print(f"L1 {F.l1_loss(vae.decode(z).sample, pixels[:128]).item():.4f}, "
              f"latent mean {z.mean().item():.3f} std {z.std().item():.3f}")
    vae.half().save_pretrained(args.output)


if __name__ == "__main__":
    main()
