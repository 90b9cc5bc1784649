"""Are the images of an embedded generator recognisable? A grid for people, a group classifier for the record.

    python scripts/embedded/check_samples.py visalign/assets/tiny-sd3 --grid docs/pictures/tiny-sd3.webp

The classifier is a small convolutional net trained here on real drawings and their *group* only (15 groups); it has
never seen a generated image. Printed: its accuracy on held-out drawings, on samples for name captions and
on samples for general captions, and the mean pairwise pixel distance of samples of one general caption.
"""

import argparse
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from common import load_pixels, load_rows
from train_clip import augment

from visalign.config import ModelSettings
from visalign.generators import load_generator
from visalign.media.samples import grid, to_pixels
from visalign.rewards.emoji_group import group_classifier

SHOWN = ["red apple", "banana", "pizza", "cat face", "panda", "penguin", "octopus", "sunflower", "red heart",
         "grinning face", "rainbow", "soccer ball", "bus", "a green vegetable", "an animal", "a purple heart"]


def build_classifier() -> tuple[torch.nn.Module, list[str]]:
    """An untrained classifier and the groups it tells apart."""
    groups = sorted({row["group"] for row in load_rows()})
    return group_classifier(len(groups)), groups


def train_classifier(steps: int) -> tuple[torch.nn.Module, list[str]]:
    rows = load_rows()
    model, groups = build_classifier()
    pixels, labels = load_pixels(rows), torch.tensor([groups.index(row["group"]) for row in rows])
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(rows), (64,))
        loss = F.cross_entropy(model(augment(pixels[chosen])), labels[chosen], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval(), groups


@torch.no_grad()
def accuracy(model, groups, pixels, truth: list[str]) -> float:
    return (model(pixels).argmax(1) == torch.tensor([groups.index(g) for g in truth])).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--classifier-steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    generator = load_generator(ModelSettings(source=args.model, attention="math", prompt_tokens=8), "cpu")

    def sample(prompts: list[str]):
        batches = generator.sample(prompts, list(range(len(prompts))), steps=args.steps,
                                   guidance_scale=args.guidance_scale)
        return [image for batch in batches for image in batch]

    images = sample([p for p in SHOWN for _ in range(6)])
    args.grid.parent.mkdir(parents=True, exist_ok=True)
    grid([(p, images[6 * i:6 * i + 6]) for i, p in enumerate(SHOWN)], cell=72, label_width=140).save(args.grid)

    model, groups = train_classifier(args.classifier_steps)
    held_out, rows = load_rows("held_out"), load_rows()
    rng = random.Random(0)
    named = rng.sample(sorted({(row["name"], row["group"]) for row in rows}), 96)
    kinds = sorted({(f"{'an' if row['kind'][0] in 'aeiou' else 'a'} {row['kind']}", row["group"]) for row in rows}) * 4
    of_names, of_kinds = (to_pixels(sample([text for text, _ in some]), 64) for some in (named, kinds))
    by_kind = of_kinds.view(4, -1, *of_kinds.shape[1:])
    distance = sum((by_kind[i] - by_kind[j]).abs().mean().item() for i in range(4) for j in range(i)) / 6
    print(json.dumps({
        "groups": len(groups), "chance": 1 / len(groups),
        "real drawings held out": accuracy(model, groups, load_pixels(held_out), [row["group"] for row in held_out]),
        "samples of names": accuracy(model, groups, of_names, [g for _, g in named]),
        "samples of general captions": accuracy(model, groups, of_kinds, [g for _, g in kinds]),
        "pixel distance between seeds of a general caption": distance,
    }, indent=2))


if __name__ == "__main__":
    main()
