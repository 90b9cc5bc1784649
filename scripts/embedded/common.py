"""What the scripts that train the embedded models share: the images, the captions, the tokenizer, EMA."""

import argparse
import copy
import io
import json
import random
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file

ASSETS = Path(__file__).resolve().parents[2] / "visalign" / "assets"
MAX_TOKENS = 16
VOCABULARY = 1500


def load_rows(split: str | None = "train") -> list[dict]:
    rows = pq.read_table(ASSETS / "emoji" / "emoji.parquet").to_pylist()
    return [row for row in rows if split is None or row["split"] == split]


def load_pixels(rows: list[dict]) -> torch.Tensor:
    """float32 [N, 3, 64, 64] in [-1, 1]."""
    images = [np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB")) for row in rows]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw_caption(row: dict, rng: random.Random, weights=(0.6, 0.25, 0.15)) -> str:
    """One of the row's seen captions, its level drawn with the weights of (name, colour, kind)."""
    by_level = {}
    for caption in row["captions"]:
        if not caption["unseen"]:
            by_level.setdefault(caption["level"], []).append(caption["text"])
    levels = [level for level in ("name", "colour", "kind") if level in by_level]
    level = rng.choices(levels, [dict(zip(("name", "colour", "kind"), weights, strict=True))[k] for k in levels])[0]
    return rng.choice(by_level[level])


def all_captions(rows: list[dict]) -> list[str]:
    return sorted({caption["text"] for row in rows for caption in row["captions"]})


def build_tokenizer(captions: list[str]):
    """A byte-pair tokenizer in CLIP's own format, trained on the captions; any other text falls back to bytes.

    The end token has the highest id (open_clip finds it by argmax), padding the lowest.
    """
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    special = ["<|startoftext|>", "<|endoftext|>"]
    learner = CLIPTokenizer().backend_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    corpus = captions * 3 + [" ".join(captions)] + [c for c in alphabet] * 2
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, min_frequency=2, initial_alphabet=sorted(alphabet),
                                  end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(corpus, trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    known = set(pieces)
    pieces += [c + "</w>" for c in sorted(alphabet) if c + "</w>" not in known]
    pieces = ["<|pad|>"] + [p for p in pieces if p not in special] + special
    return CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[tuple(m) for m in learned["merges"]],
                         pad_token="<|pad|>", model_max_length=MAX_TOKENS)


def build_t5_tokenizer(captions: list[str], max_length: int = 256):
    """Words of the captions, then single characters for everything else."""
    from transformers import T5Tokenizer

    words = sorted({word for caption in captions for word in caption.split()})
    characters = [chr(c) for c in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -6.0)]
    pieces += [("\u2581" + word, -4.0) for word in words] + [(c, -8.0) for c in characters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_length)


class Ema:
    """An exponential moving average of parameters, warmed up so that early averages are not stale."""

    def __init__(self, modules: torch.nn.Module, decay: float):
        self.decay, self.steps, self.live = decay, 0, modules
        self.average = copy.deepcopy(modules).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages, values = list(self.average.parameters()), [p.detach() for p in self.live.parameters()]
        torch._foreach_lerp_(averages, values, 1 - decay)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Linear warm-up, then linear decay to a twentieth."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 - 0.95 * (step - warmup) / max(1, steps - warmup))


def clip_text_config(tokenizer, **changes):
    """The small CLIP text encoder all embedded generators use (three layers; the pipelines read the second's output).

    `dtype` says float32 because the weights are stored in float16 and transformers would otherwise load them so.
    """
    from transformers import CLIPTextConfig

    return CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=96, intermediate_size=384, num_hidden_layers=3,
                          num_attention_heads=4, max_position_embeddings=MAX_TOKENS, projection_dim=96,
                          pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
                          eos_token_id=tokenizer.eos_token_id, dtype="float32", **changes)


def save_pipeline(pipeline, folder: Path) -> None:
    """Write a pipeline with float16 weights whose text encoders still declare float32."""
    pipeline.to(torch.float16)
    pipeline.save_pretrained(folder)
    for config in folder.glob("text_encoder*/config.json"):
        settings = json.loads(config.read_text())
        config.write_text(json.dumps(settings | {"dtype": "float32"}, indent=2) + "\n")
    vae_config = folder / "vae" / "config.json"
    settings = json.loads(vae_config.read_text())
    settings.pop("_name_or_path", None)  # where it lay on the machine that trained it
    vae_config.write_text(json.dumps(settings, indent=2) + "\n")


class EmojiLatents:
    """The embedded images as latents, with a way to draw one of an image's captions."""

    def __init__(self, vae):
        self.rows = load_rows()
        with torch.no_grad():
            self.latents = vae.encode(load_pixels(self.rows)).latent_dist.mean

    def caption(self, index: int, rng: random.Random) -> str:
        return draw_caption(self.rows[index], rng)


def pretrain(modules: torch.nn.ModuleDict, loss_of, data, args) -> torch.nn.ModuleDict:
    """Train `modules` on `loss_of(modules, latents, captions, rng)` for args.minutes; returns their averages.

    `data` has `latents` [N, ...] and `caption(index, rng)`; one caption in ten is dropped for guidance.
    """
    rng = random.Random(args.seed)
    if args.start_from and args.start_from.suffix == ".pt":
        modules.load_state_dict(torch.load(args.start_from, weights_only=True))
    elif args.start_from:
        for name, module in modules.items():
            file = next((args.start_from / name).glob("*.safetensors"))
            module.load_state_dict({k: v.float() for k, v in load_file(file).items()}, strict=False)
    print({k: f"{sum(p.numel() for p in m.parameters()) / 1e6:.2f}M" for k, m in modules.items()}, flush=True)

    def loss(fraction: float) -> tuple[torch.Tensor, dict]:
        chosen = [rng.randrange(len(data.latents)) for _ in range(args.batch)]
        captions = ["" if rng.random() < 0.1 else data.caption(i, rng) for i in chosen]
        with torch.autocast("cpu", torch.bfloat16):
            return loss_of(modules, data.latents[chosen], captions, rng), {}

    return train_for(args.minutes, modules, list(modules.parameters()), loss, lr=args.lr, ema=args.ema,
                     weight_decay=0.01, partial=Path(f"{args.output}.partial.pt"))


def train_for(minutes: float, module: torch.nn.Module, trained: list[torch.nn.Parameter], loss_of, *, lr: float,
              ema: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, warmup: int = 400,
              partial: Path | None = None) -> torch.nn.Module:
    """Minimise `loss_of(fraction of the time) -> (loss, {name: number to print})`; returns the module's average."""
    average = Ema(module, ema)
    optimiser = torch.optim.AdamW(trained, lr, betas=betas, weight_decay=weight_decay, fused=True)
    module.train()
    start, step, fraction, running = time.time(), 0, 0.0, None
    while fraction < 1 and minutes:
        fraction = (time.time() - start) / (60 * minutes)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(int(1e4 * fraction), 10000, lr, warmup)
        loss, numbers = loss_of(fraction)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        average.update()
        step += 1
        running = loss.item() if running is None else running + (loss.item() - running) * 0.01
        if step % 100 == 0:
            shown = " ".join(f"{name} {value:.4f}" for name, value in numbers.items())
            print(f"{step} {time.time() - start:.0f}s loss {running:.4f} {shown}", flush=True)
            if partial and step % 500 == 0:
                torch.save(average.average.state_dict(), partial)
    return average.average


def plain_attention() -> None:
    """On short sequences the CPU's plain attention trains 1.4 times faster than its fused kernel."""
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)


def arguments(description: str, **defaults):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the pipeline folder to write")
    parser.add_argument("--vae", type=Path, required=True, help="folder from train_vae.py")
    parser.add_argument("--start-from", type=Path, help="a pipeline folder, or the .partial.pt of an earlier run; its "
                                                        "weights are trained further")
    for name, value in {"minutes": 60.0, "threads": 1, "batch": 32, "lr": 1e-3, "ema": 0.9993, "seed": 0,
                        **defaults}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    plain_attention()
    return args
