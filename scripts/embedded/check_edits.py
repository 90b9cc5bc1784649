"""How many held-out edits does the embedded edit model get right? A grid for people, figures for the record.

    python scripts/embedded/check_edits.py visalign/assets/tiny-edit --grid docs/pictures/tiny-edit.webp

Printed for each instruction: the mean of what was done, of what was kept and of their product, and the share of edits
with a product of at least RIGHT. Sources are drawings that the model never saw; UNSEEN_EDITS are new to it, too.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from diffusers import FluxKontextPipeline
from PIL import Image

from visalign.data.embedded_edits import edit_prompts
from visalign.media.emoji_edits import EDITS, score_edit
from visalign.media.samples import grid
from visalign.media.source_images import source_images_of, words_of

RIGHT = 0.7


@torch.no_grad()
def edit(pipeline, words: str, source: Image.Image, seed: int, steps: int) -> Image.Image:
    side = source.width
    return pipeline(image=source, prompt=words, height=side, width=side, max_area=side * side, _auto_resize=False,
                    num_inference_steps=steps, max_sequence_length=8, output_type="pil",
                    generator=torch.Generator().manual_seed(seed)).images[0]


def report(scores: dict[str, list]) -> dict[str, dict[str, float]]:
    def means(found: list) -> dict[str, float]:
        return {"edits": len(found), "done": sum(s.done for s in found) / len(found),
                "kept": sum(s.kept for s in found) / len(found),
                "score": sum(s.product for s in found) / len(found),
                "right": sum(s.product >= RIGHT for s in found) / len(found)}
    return {words: means(scores[words]) for words in EDITS if scores[words]} | {
        "all": means([score for found in scores.values() for score in found])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--edits", type=int, default=200, help="how many of the held-out edits")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = FluxKontextPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    scores, shown = defaultdict(list), defaultdict(list)
    for number, prompt in enumerate(edit_prompts("held_out")[:args.edits]):
        words, source = words_of(prompt), source_images_of(prompt)[0]
        result = edit(pipeline, words, source, number, args.steps)
        scores[words].append(score_edit(words, source, result))
        shown[words] += [source, result]
    args.grid.parent.mkdir(parents=True, exist_ok=True)
    grid([(words, shown[words][:12]) for words in EDITS if shown[words]], cell=72, label_width=180).save(args.grid)
    for words, means in report(scores).items():
        print(f"{words:32s}", json.dumps({name: round(value, 3) for name, value in means.items()}))


if __name__ == "__main__":
    main()
