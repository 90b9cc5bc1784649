"""What replaying a pipeline's conventions adds to a bare pass of its network, both timed in this one run.

    python scripts/bench/replay.py                         a tiny pipeline of every family, its network made deeper
    python scripts/bench/replay.py qwen_image flux ltx     these
    python scripts/bench/replay.py --mixed                 prompts of 5 to 77 words in batches of 8
    python scripts/bench/replay.py --load                  how long conventions take to be found

`replay` is a prediction from latents, times and conditioning; `bare` is the network's forward with those arguments in
place. They alternate, and the median of the ratios of neighbours is printed: for a pass without gradient, and for one
forward and backward. --mixed compares batches of prompts of all lengths with batches of prompts of the mean length, in
one pass where the network can and one pass for each length.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.families import TINY, load_tiny

DEPTHS = ("num_layers", "n_layers", "num_single_layers", "num_visual_blocks", "num_attention_layers")
"""By which the networks are told how many blocks they have."""
LAYERS, FEW = 16, 2  # blocks of the networks; few for many tokens
WORDS = ("a", "red", "cat", "face", "with", "blue", "tree", "and", "house")


def loaded(name: str, folder: Path, enlarged: int, layers: int = LAYERS, **settings):
    """The generator of a tiny pipeline with a deeper network, at a size so many times its quick one."""
    from visalign.generators import Generator

    def deeper(pipeline) -> None:
        for part in ("transformer", "transformer_2"):
            network = getattr(pipeline, part, None)
            if network is not None:
                depth = {key: layers for key in DEPTHS if isinstance(network.config.get(key), int)}
                setattr(pipeline, part, type(network).from_config(dict(network.config) | depth))

    own = Generator.__init__

    def built(self, pipeline, **options):
        deeper(pipeline)
        own(self, pipeline, **options)

    size = TINY[name].settings.get("resolution", 16)
    size = [side * enlarged for side in size] if isinstance(size, list) else size * enlarged
    Generator.__init__ = built
    try:
        return load_tiny(folder, name, resolution=size, **settings)
    finally:
        Generator.__init__ = own


def ratio(one: Callable[[], object], other: Callable[[], object], repeats: int) -> tuple[float, float]:
    """(seconds of one / seconds of the other, seconds of the other), the two in turn; medians."""
    one(), other()
    pairs = [(seconds(one), seconds(other)) for _ in range(repeats)]
    return statistics.median(a / b for a, b in pairs), statistics.median(b for _, b in pairs)


def seconds(run: Callable[[], object]) -> float:
    """Of this process's processors, which other work on the machine does not lengthen."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def bench_replay(name: str, folder: Path, repeats: int) -> dict:
    generator = loaded(name, folder, 2)
    if generator.sources is not None:
        return {"pipeline": name, "skipped": "takes source images"}
    latents = torch.randn(4, *generator.conventions.shape)
    t = generator.process.times_at(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    conditioning = generator.encode_prompts(["a cat face"] * 4)
    network, scale = generator.denoiser, torch.full((4,), generator.default_guidance_scale)
    arguments = generator.replay.arguments(latents, t, conditioning, scale, network.dtype)
    network.requires_grad_(True)

    def first(output):
        value = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        return torch.stack(value) if isinstance(value, list) else value

    def bare():
        return first(network(**arguments)).float()

    def replay():
        return generator.predict(latents, t, conditioning)

    with torch.no_grad():
        forward, took = ratio(replay, bare, repeats)
    both, _ = ratio(lambda: replay().square().mean().backward(), lambda: bare().square().mean().backward(),
                    max(3, repeats // 2))
    gathers = [field for field in ("to_network", "from_output")
               if getattr(generator.conventions, field).index is not None]
    return {"pipeline": name, "bare_ms": round(1000 * took, 1), "forward": round(forward, 3),
            "forward_and_backward": round(both, 3), "gathers": gathers}


def bench_mixed(name: str, folder: Path, repeats: int) -> dict:
    generator = loaded(name, folder, 6, FEW, prompt_tokens=512)
    lengths = torch.linspace(5, 77, 32).long()[torch.randperm(32)].tolist()
    prompts = [" ".join(WORDS[place % len(WORDS)] for place in range(length)) for length in lengths]
    same = " ".join(WORDS[place % len(WORDS)] for place in range(sum(lengths) // len(lengths)))
    mixed = [generator.encode_prompts(prompts[start:start + 8]) for start in range(0, 32, 8)]
    equal = generator.encode_prompts([same] * 8)
    latents, t = torch.randn(8, *generator.conventions.shape), torch.linspace(0.1, 0.9, 8)

    def run(batches):
        with torch.no_grad():
            for batch in batches:
                generator.predict(latents, t, batch)

    both, took = ratio(lambda: run(mixed), lambda: run([equal] * 4), repeats)
    row = {"pipeline": name, "equal_lengths_s": round(took, 2),
           "one_pass" if generator.conventions.padding else "a_pass_for_each_length": round(both, 3)}
    if generator.conventions.padding:
        generator.replay.conventions = dataclasses.replace(generator.conventions, padding=None)
        row["a_pass_for_each_length"] = round(ratio(lambda: run(mixed), lambda: run([equal] * 4), repeats)[0], 3)
    return row


def bench_load(name: str, folder: Path, repeats: int) -> dict:
    from visalign.generators.observe import observer

    generator = load_tiny(folder, name)

    def observe() -> None:
        observer._KNOWN.clear()
        generator.observe()

    return {"pipeline": name, "observe_s": round(min(seconds(observe) for _ in range(repeats)), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    bench = bench_mixed if args.mixed else bench_load if args.load else bench_replay
    names = args.names or (["qwen_image", "z_image", "cogview4"] if args.mixed else list(TINY))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            print(json.dumps(bench(name, TINY[name].build(Path(root) / name), args.repeats)), flush=True)


if __name__ == "__main__":
    main()
