"""Train tiny-clip, the embedded reward and feature extractor, as an ordinary open_clip folder.

    python scripts/embedded/train_clip.py visalign/assets/tiny-clip --minutes 8

Loss: symmetric cross-entropy over the batch where every caption that is true of a drawing counts as a match (a
general caption is true of many). Images are moved, scaled, recoloured a little, blurred and noised, so that the
model scores what is drawn rather than which file it is. Afterwards it prints retrieval on drawings it never saw and
on colour-and-kind captions it never saw.
"""

import argparse
import json
import math
import random
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from common import (
    MAX_TOKENS,
    all_captions,
    build_tokenizer,
    draw_caption,
    load_pixels,
    load_rows,
    plain_attention,
    train_for,
)
from safetensors.torch import save_file

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 160, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": MAX_TOKENS, "width": 128, "heads": 4, "layers": 3, "hf_tokenizer_name": "."},
}
PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


def augment(x: torch.Tensor) -> torch.Tensor:
    """Random affine, brightness, colour cast, blur and noise on [B, 3, H, W] in [-1, 1] over a white ground."""
    n = len(x)
    angle = (torch.rand(n) - 0.5) * 0.5
    scale = 0.85 + 0.4 * torch.rand(n)
    flip = torch.where(torch.rand(n) < 0.3, -1.0, 1.0)
    theta = torch.stack([torch.stack([scale * flip * angle.cos(), -scale * angle.sin()], 1),
                         torch.stack([scale * flip * angle.sin(), scale * angle.cos()], 1)], 1)
    theta = torch.cat([theta, (torch.rand(n, 2, 1) - 0.5) * 0.25], 2)
    x = 1 - F.grid_sample(1 - x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)
    x = x * (0.85 + 0.15 * torch.rand(n, 3, 1, 1)) + 0.08 * torch.randn(n, 1, 1, 1)
    blurred = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)
    x = torch.lerp(x, blurred, torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.6))
    return (x + 0.15 * torch.rand(n, 1, 1, 1) * torch.randn_like(x)).clamp(-1, 1)


@torch.no_grad()
def retrieval(model, tokenizer) -> dict[str, float]:
    model.eval()
    held, everything = load_rows("held_out"), load_rows(None)
    names = sorted({row["name"] for row in everything})
    texts = F.normalize(model.encode_text(tokenizer(names)), dim=-1)
    images = F.normalize(model.encode_image(load_pixels(held)), dim=-1)
    ranked = (images @ texts.T).argsort(-1, descending=True)
    truth = torch.tensor([names.index(row["name"]) for row in held])
    hits = ranked == truth[:, None]
    every_image = F.normalize(model.encode_image(load_pixels(everything)), dim=-1)
    unseen = sorted({c["text"] for row in everything for c in row["captions"] if c["unseen"]})
    order = (F.normalize(model.encode_text(tokenizer(unseen)), dim=-1) @ every_image.T).argsort(-1, descending=True)
    first = [unseen[i] in [c["text"] for c in everything[order[i, 0]]["captions"]] for i in range(len(unseen))]
    return {"held-out drawings": len(held), "names": len(names), "name top-1": hits[:, :1].any(1).float().mean().item(),
            "name top-5": hits[:, :5].any(1).float().mean().item(), "unseen captions": len(unseen),
            "unseen caption precision@1": sum(first) / len(first)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=96)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = random.Random(0)
    torch.set_num_threads(args.threads)
    plain_attention()

    args.output.mkdir(parents=True, exist_ok=True)
    tokens = build_tokenizer(all_captions(load_rows(None)))
    tokens.save_pretrained(args.output)
    MODEL["text_cfg"] |= {"vocab_size": len(tokens)}
    (args.output / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}, indent=2) + "\n")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{args.output}")
    model = open_clip.CLIP(embed_dim=MODEL["embed_dim"], vision_cfg=MODEL["vision_cfg"], text_cfg=MODEL["text_cfg"])
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters", flush=True)

    rows = load_rows()
    pixels = load_pixels(rows)
    true_of = [{c["text"] for c in row["captions"]} for row in rows]

    def loss_of(fraction: float) -> tuple[torch.Tensor, dict]:
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(50))
        chosen = rng.sample(range(len(rows)), args.batch)
        captions = [draw_caption(rows[i], rng, (0.5, 0.35, 0.15)) for i in chosen]
        matches = torch.tensor([[caption in true_of[i] for caption in captions] for i in chosen]).float()
        with torch.autocast("cpu", torch.bfloat16):
            image, text, scale = model(augment(pixels[chosen]), tokenizer(captions))
        logits = scale.float().clamp(max=50) * image.float() @ text.float().T
        return (F.cross_entropy(logits, matches / matches.sum(1, keepdim=True))
                + F.cross_entropy(logits.T, matches.T / matches.T.sum(1, keepdim=True))) / 2, {}

    average = train_for(args.minutes, model, list(model.parameters()), loss_of, lr=1e-3, ema=0.998, betas=(0.9, 0.98),
                        weight_decay=0.1, warmup=500)
    figures = retrieval(average, tokenizer)
    print(json.dumps(figures))
    (args.output / "retrieval.json").write_text(json.dumps(figures, indent=2) + "\n")
    weights = {k: v.half().contiguous() for k, v in average.state_dict().items()}
    save_file(weights, args.output / "open_clip_model.safetensors")


if __name__ == "__main__":
    main()
