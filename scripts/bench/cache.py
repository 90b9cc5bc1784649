"""The encoding cache: rates against a file for each entry, a warm start, waiting in training, and what bf16 rounds.

    python scripts/bench/cache.py

All in one run, so that ratios hold whatever else the machine does: SDXL's latents at 1024 px in bf16, written and read
by turns as shards and as single files, also such as are flushed to the disk like shards; a second start over pairs that
are cached; the share of a step that waits for its data, with reading as it is and with 50 ms added to each entry; and
the DPO loss and gradient of 64 pairs from latents and embeddings kept in bf16 against fp32, beside what bf16 arithmetic
itself changes.
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))

from offline import TINY, build_trainer, noise_media, seconds

from visalign.config.load import parse_config
from visalign.data.preference_pair import PreferencePair
from visalign.data.usable import BrokenRows
from visalign.generators import load_generator
from visalign.media.video_files import write_media
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.seeds import rng_at
from visalign.storage.run_folder import RunFolder
from visalign.storage.shards import ShardStore
from visalign.storage.weights import write_tensors
from visalign.trainers.offline.encoded_pairs import encode_pairs
from visalign.trainers.offline.loop import OfflineTrainer

ENTRIES, REPEATS = 500, 3


def rates() -> dict:
    """Entries a second; medians of REPEATS turns."""
    turns = [one_turn() for _ in range(REPEATS)]
    rate = {what: round(statistics.median(turn[what] for turn in turns)) for what in turns[0]}
    shard, ratios = {"write": rate["write_shard"], "read": rate["read_shard"]}, {}
    for what in ("write_files", "write_synced_files", "read_files"):
        ratios[f"shard to {what}"] = round(shard[what.partition("_")[0]] / rate[what], 2)
    return {"entries_a_second": rate, "ratios": ratios}


def one_turn() -> dict[str, float]:
    latents, order = [torch.randn(4, 128, 128).bfloat16() for _ in range(ENTRIES)], torch.randperm(ENTRIES).tolist()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.safetensors" for number in range(ENTRIES)]
        synced = [file.with_name(f"synced-{file.name}") for file in files]
        store = ShardStore(Path(folder))

        def put() -> None:
            for number, each in enumerate(latents):
                store.put(str(number), {"latents": each})
            store.flush()

        work = {"write_shard": put,
                "write_files": lambda: [save_file({"latents": each}, file)
                                        for file, each in zip(files, latents, strict=True)],
                "write_synced_files": lambda: [write_tensors(file, {"latents": each})
                                               for file, each in zip(synced, latents, strict=True)],
                "read_shard": lambda: [store.get(str(k))["latents"].float() for k in order],
                "read_files": lambda: [load_file(files[k])["latents"].float() for k in order]}
        return {what: ENTRIES / seconds(function) for what, function in work.items()}


def warm_start(pairs: int = 1000) -> dict:
    """Seconds to find the keys of cached pairs, given as files."""
    generator = load_generator("tiny-sd3", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        files = [write_media(noise_media(generator), Path(folder) / str(k)) for k in range(64)]
        two = itertools.islice(itertools.cycle(itertools.combinations(files, 2)), pairs)
        given = [PreferencePair(f"a red fruit {k % 100}", str(a), str(b), str(k)) for k, (a, b) in enumerate(two)]
        data = parse_config({"model": {"source": "tiny-sd3"}, "data": {"path": "unused"},
                             "objective": {"name": "flow_dpo"}}).data

        def start() -> None:
            encode_pairs(given, EncodingCache(Path(folder) / "cache", generator), Accelerator(cpu=True),
                         BrokenRows(data))

        start()
        return {"pairs": pairs, "warm_start_s": round(seconds(start), 3)}


def waiting(model: str, delay: float, steps: int = 8) -> dict:
    """The share of the steps after the first two that waits for its data."""
    read = ShardStore.get
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(model, 2, folder)
        ShardStore.get = lambda store, key: time.sleep(delay) or read(store, key)
        try:
            with trainer.learning():
                for step in range(2):
                    trainer.train_unit(step, trainer.batch(step))
                trainer.prepared.waited = 0.0
                taken = seconds(lambda: [trainer.train_unit(step, trainer.batch(step)) for step in range(2, 2 + steps)])
        finally:
            ShardStore.get = read
    return {"model": model, "added_ms_an_entry": 1000 * delay, "step_s": round(taken / steps, 3),
            "waiting_share": round(trainer.prepared.waited / taken, 4)}


def loss_and_gradient(model: str, precision: str, kept: str, folder: Path) -> tuple[float, torch.Tensor]:
    """Of 64 pairs, with an adapter that is not where it started."""
    config = parse_config({
        "model": {"source": model, "prompt_tokens": 8, "precision": precision}, "objective": {"name": TINY[model][0]},
        "data": {"path": "unused", "cache_dtype": kept}, "train": {"batch_size": 64, "device": "cpu"},
        "output": {"folder": str(folder / f"{precision}-{kept}"), "trackers": []}})
    generator = load_generator(config.model, "cpu")
    cache, accelerator = EncodingCache(folder / "cache", generator, kept), Accelerator(cpu=True)
    pairs = [PreferencePair(f"a red fruit {k}", str(folder / f"{k}.png"), str(folder / f"{k + 64}.png"), str(k))
             for k in range(64)]
    items = encode_pairs(pairs, cache, accelerator, BrokenRows(config.data))
    trainer = OfflineTrainer(config, generator, items, [], cache, RunFolder(config.output.folder, config), accelerator)
    for number, parameter in enumerate(trainer.parameters):
        parameter.data += 0.002 * torch.randn(parameter.shape, generator=rng_at(1, number))
    loss = trainer.objective(trainer.errors(*trainer.prepare(range(64), items))).loss
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None])


def rounding(model: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        generator = load_generator(model, "cpu")
        for k in range(128):
            write_media(noise_media(generator), Path(folder) / str(k))
        loss, gradient = loss_and_gradient(model, "fp32", "fp32", Path(folder))
        found: dict = {"model": model, "loss": round(loss, 5)}
        for precision, kept in (("fp32", "bf16"), ("bf16", "fp32"), ("bf16", "bf16")):
            other, changed = loss_and_gradient(model, precision, kept, Path(folder))
            found[f"arithmetic {precision}, kept in {kept}"] = {
                "loss": f"{(other - loss) / loss:+.1e}",
                "gradient": f"{((changed - gradient).norm() / gradient.norm()).item():.1e}"}
    return found


def main() -> None:
    torch.manual_seed(0)
    print(json.dumps(rates()))
    print(json.dumps(warm_start()))
    for model in ("tiny-sd3", "tiny-sdxl"):
        for delay in (0.0, 0.05):
            print(json.dumps(waiting(model, delay)))
        print(json.dumps(rounding(model)))


if __name__ == "__main__":
    main()
