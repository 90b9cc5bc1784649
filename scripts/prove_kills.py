"""Does a killed command end with the same results? kill -9 at random moments, then the same command again.

    python scripts/prove_kills.py offline online reward score evaluate demo
    python scripts/prove_kills.py online --kills 100 --out kills         # KIND.json and KIND.md in kills/

For each kind: the command is run whole, twice, and both must be the same to the bit (weights, optimiser, metrics,
export, tables). Then it is started in new folders, killed after a random time, continued, killed again ..., until
--kills kills were made; whatever it ends with is compared with the whole run. The demo is killed while voters vote:
every vote that the server had answered must be in the database, once. Commands run in forks of a process that has
imported everything, so that a kill costs less than an import. Threads are as the environment says (OMP_NUM_THREADS).
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

KILLS_A_RUN = 6
"""After so many kills a run is left to end, so that the next one starts anew."""
OF_TIME = ("seconds", "samples_a_second", "peak_memory", "passes/")
"""Beginnings of the names in a row of metrics that depend on the clock or on when the program was started."""


@dataclass
class Found:
    """The outcome of the kills of one kind."""

    kind: str
    kills: int = 0
    runs: int = 0
    twice_the_same: bool | None = None
    differing: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict:
        return {"kind": self.kind, "kills": self.kills, "runs": self.runs, "same": self.runs - len(self.differing),
                "run twice": self.twice_the_same, "differing": self.differing, "seconds": round(self.seconds),
                "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"), "cores": os.cpu_count()}


@dataclass(frozen=True)
class Kind:
    """prepare(root) writes the inputs; command(root, out, again) is what is typed; compared(out) gives what must be the
    same, by name. done: a file of `out` that says that nothing is left to do, where a command refuses to run again."""

    prepare: Callable[[Path], None]
    command: Callable[[Path, Path, bool], list[str]]
    compared: Callable[[Path], dict[str, object]]
    done: str = ""


def start(words: list[str], log: Path) -> int:
    """`visalign words` in a fork; its process number."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    try:
        os.setpgid(0, 0)
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        from visalign.cli import main

        main(words)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(1)


def finished(number: int, seconds: float) -> int | None:
    """The exit code of a process that ends within `seconds`, else None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def run_whole(words: list[str], log: Path) -> float:
    """Run a command to its end; its seconds. Raises RuntimeError when it fails."""
    begun = time.monotonic()
    code = finished(start(words, log), 3600)
    if code != 0:
        raise RuntimeError(f"{' '.join(words)} ended with {code}: {log.read_text(errors='replace')[-2000:]}")
    return time.monotonic() - begun


def prove(name: str, kind: Kind, kills: int, root: Path, chance: random.Random) -> Found:
    """Kill one kind of command `kills` times."""
    found, begun = Found(name), time.monotonic()
    kind.prepare(root)
    log = root / "log.txt"
    lasts = run_whole(kind.command(root, root / "whole", False), log)
    wanted = kind.compared(root / "whole")
    run_whole(kind.command(root, root / "twice", False), log)
    found.twice_the_same = not unlike(wanted, kind.compared(root / "twice"))
    if not found.twice_the_same:
        found.differing.append(f"run twice: {', '.join(unlike(wanted, kind.compared(root / 'twice')))}")
    while found.kills < kills:
        out, here = root / f"cut-{found.runs}", 0
        while True:
            number, since = start(kind.command(root, out, True), log), time.monotonic()
            last = here == KILLS_A_RUN or found.kills == kills
            code = finished(number, 3600 if last else chance.uniform(0, 0.9 * lasts))
            if code is not None:
                break
            os.killpg(number, signal.SIGKILL)
            os.waitpid(number, 0)
            here, found.kills = here + 1, found.kills + 1
            if kind.done and (out / kind.done).exists():
                code = 0
                break
        if not here:  # it was not killed: the machine is faster now than it was
            lasts = min(lasts, time.monotonic() - since)
        found.runs += 1
        wrong = [f"exit code {code} ({last_line(log)})"] if code else unlike(wanted, kind.compared(out))
        if wrong:
            found.differing.append(f"{out.name} after {here} kills: {', '.join(wrong)}")
        print(f"{name}: {found.kills} kills, {found.runs} runs, {len(found.differing)} differ", flush=True)
    found.seconds = time.monotonic() - begun
    return found


def last_line(log: Path) -> str:
    return log.read_text(errors="replace").strip().splitlines()[-1][:300]


def unlike(wanted: dict[str, object], got: dict[str, object]) -> list[str]:
    """Names of what is not the same."""
    return sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))


def write_images(folder: Path, count: int, prompts: int) -> None:
    """Images of coloured noise with their prompts."""
    folder.mkdir()
    noise, rows = np.random.default_rng(0), []
    for number in range(count):
        colour = noise.integers(0, 256, 3)
        pixels = np.clip(noise.normal(colour, 40, (48, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
        rows.append(json.dumps({"prompt": f"a red fruit number {number % prompts}", "file": f"{number:04d}.png",
                                "seed": number // prompts}))
    (folder / "samples.jsonl").write_text("\n".join(rows) + "\n")


def write_recipe(root: Path, name: str, **sections) -> None:
    (root / name).write_text(yaml.safe_dump(sections))


MODEL = {"source": "tiny-sd3", "lora": {"rank": 4, "alpha": 4}, "attention": "math", "precision": "fp32",
         "prompt_tokens": 8}
EVAL = {"max_prompts": 1, "samples_per_prompt": 2, "steps": 1, "guidance_scale": 1.0, "reward": "contrast",
        "features": None, "every": 4}


def prepare_offline(root: Path) -> None:
    write_images(root / "media", 16, 4)
    rows = [{"prompt": f"a red fruit number {i}", "chosen": f"media/{i:04d}.png", "rejected": f"media/{i + 8:04d}.png"}
            for i in range(8)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_recipe(root, "offline.yaml", model=MODEL | {"lora": {"rank": 4, "alpha": 4, "dropout": 0.1}},
                 data={"path": str(root / "pairs.jsonl"), "holdout": 0.2, "caption_dropout": 0.2},
                 objective={"name": "flow_dpo"}, optim={"lr": 1e-3, "ema_decay": 0.9, "schedule": "cosine"},
                 train={"steps": 10, "batch_size": 2, "device": "cpu"}, eval=EVAL,
                 output={"checkpoint_every": 2, "trackers": []})


def prepare_online(root: Path) -> None:
    write_recipe(root, "online.yaml", model=MODEL,
                 rollout={"prompts_per_epoch": 2, "group_size": 4, "batch_size": 4, "steps": 4, "clean_steps": 1},
                 reward={"models": [{"reward": "tiny-reward"}, {"reward": "tiny-clip", "weight": 0.5}]},
                 objective={"name": "grpo"}, optim={"lr": 1e-3, "ema_decay": 0.9},
                 train={"epochs": 6, "batch_size": 4, "device": "cpu"}, eval=EVAL,
                 output={"trackers": []})


def prepare_reward(root: Path) -> None:
    write_images(root / "media", 16, 8)
    rows = [{"prompt": f"a red fruit number {i % 8}", "a": f"media/{i:04d}.png",
             "b": f"media/{i + 8:04d}.png", "alignment": "ab"[i % 2], "quality": "ab"[i % 3 == 0]}
            for i in range(8)]
    (root / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_recipe(root, "reward.yaml", model={"dimensions": ["alignment", "quality"], "video_only": [], "width": 32,
                                             "attention_heads": 2, "members": 2, "tuning": "lora", "lora_rank": 2},
                 data={"path": str(root / "annotations.jsonl"), "holdout": 0.25}, optim={"lr": 1e-3, "ema_decay": 0.9},
                 train={"steps": 12, "batch_size": 2, "device": "cpu", "precision": "fp32"},
                 output={"checkpoint_every": 3, "trackers": []})


def training(verb: list[str], recipe: str, cached: bool) -> Callable[[Path, Path, bool], list[str]]:
    """The command of a training; each run has a cache of its own, so that encoding is killed as well."""
    def command(root: Path, out: Path, again: bool) -> list[str]:
        words = [*verb, str(root / recipe), f"output.folder={out}"]
        if cached:
            words.append(f"{'data' if recipe == 'offline.yaml' else 'rollout'}.cache={out}-cache")
        return [*words, "--resume"] if again and (out / "config.yaml").exists() else words

    return command


def compared_run(out: Path) -> dict[str, object]:
    """What a finished run came to: every tensor, every row of metrics, every sample."""
    import torch

    found: dict[str, object] = {}
    newest = max((out / "checkpoints").glob("step-*"))
    kept = torch.load(newest / "optimizer.pt", weights_only=True)
    found["optimiser"] = repr(tensors(kept))
    for file in (newest / "trainable.safetensors", *out.glob("export/*.safetensors"), *out.glob("guard/*"),
                 *out.glob("samples/*/*.png"), *out.glob("rollouts/*"), *out.glob("reward/*"),
                 *out.glob("eval/eval.json")):
        found[file.relative_to(out).as_posix()] = content_of(file)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = [f"row {row['kind']} {row['step']} {row.get('folder', '')}" for row in rows]
    found["rows written once"] = len(set(names)) == len(names)
    found |= {name: json.dumps({key: value for key, value in row.items() if not key.startswith(OF_TIME)},
                               sort_keys=True)
              for name, row in zip(names, rows, strict=True) if row["kind"] not in ("start", "self_check")}
    return found


def content_of(file: Path) -> object:
    """Bytes; of weights the tensors, since a safetensors file lists its metadata in no fixed order."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    from safetensors.torch import load_file

    return repr(sorted((name, tensor.shape, tensors(tensor)) for name, tensor in load_file(file).items()))


def tensors(value) -> object:
    """A nest of tensors as a nest of bytes."""
    if isinstance(value, dict):
        return {key: tensors(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [tensors(each) for each in value]
    return value.numpy().tobytes() if hasattr(value, "numpy") else value


def compared_score(out: Path) -> dict[str, object]:
    import pyarrow.parquet as pq

    table = pq.read_table(out / "scores.parquet")
    return {name: table.column(name).to_pylist() for name in table.column_names}


def score(root: Path, out: Path, again: bool) -> list[str]:
    out.mkdir(exist_ok=True)
    return ["score", str(root / "media"), "-r", "tiny-reward,tiny-clip,sharpness", "--out", str(out / "scores.parquet"),
            "--device", "cpu"]


def prepare_evaluate(root: Path) -> None:
    prepare_offline(root)
    run_whole(["train", str(root / "offline.yaml"), f"output.folder={root / 'run'}", f"data.cache={root / 'cache'}",
               "train.steps=2"], root / "log.txt")


def evaluate(root: Path, out: Path, again: bool) -> list[str]:
    return ["evaluate", str(root / "run"), "--out", str(out), "--samples-per-prompt", "2", "--max-prompts", "4",
            "--steps", "2", "--cache", f"{out}-features.sqlite", "--device", "cpu"]


def compared_evaluate(out: Path) -> dict[str, object]:
    import pyarrow.parquet as pq

    table = pq.read_table(out / "results.parquet")
    found: dict[str, object] = {name: repr(table.column(name).to_pylist()) for name in table.column_names}
    found |= {"results.json": (out / "results.json").read_text(), "has a page": (out / "report.html").is_file()}
    return found | {file.relative_to(out).as_posix(): file.read_bytes() for file in out.glob("generations/*/*.png")}


KINDS = {
    "offline": Kind(prepare_offline, training(["train"], "offline.yaml", True), compared_run),
    "online": Kind(prepare_online, training(["train"], "online.yaml", True), compared_run),
    "reward": Kind(prepare_reward, training(["reward", "train"], "reward.yaml", False), compared_run),
    "score": Kind(lambda root: write_images(root / "media", 600, 100), score, compared_score),
    "evaluate": Kind(prepare_evaluate, evaluate, compared_evaluate, "results.json"),
}


def prove_demo(kills: int, root: Path, chance: random.Random) -> Found:
    """Kill the demo while voters vote; every vote that was answered must be in the database once, unchanged."""
    sys.path.insert(0, str(Path(__file__).parent / "bench"))
    import httpx
    from votes import SAID, Voter, answers, write_folder

    from visalign.votes import VoteDatabase

    found, begun = Found("demo"), time.monotonic()
    sides = [f"{name}={write_folder(root / name, 40, shade)}" for name, shade in (("one", 40), ("two", 90))]
    port, log = free_port(), root / "log.txt"
    address, book, given = f"http://127.0.0.1:{port}", VoteDatabase(root / "book"), 0
    words = ["demo", *sides, "-r", "saturation", "--pairs", "40", "--folder", str(root / "book"), "--port", str(port)]
    kept: dict[tuple[str, str], str] = {}

    def vote(name: str) -> None:
        """Vote until the server dies; notes each vote that it has answered."""
        voter = Voter(address, name)
        voter.held = voter.call("ballot", [name, ""])[1]
        for i in range(40):
            said = SAID[i % 4]
            answer = voter.call(f"vote_{said}", [name, voter.held, time.time(), *[None] * voter.dimensions])
            kept[name, voter.held.partition(",")[0]] = said
            voter.held = answer[1]
            time.sleep(chance.uniform(0, 0.1))

    for kill in range(kills):
        number = start(words, log)
        while not (book.matchups() and answers(address)):
            if finished(number, 0.2) is not None:
                raise RuntimeError(f"the demo ended: {log.read_text(errors='replace')[-2000:]}")
        with ThreadPoolExecutor(4) as pool:
            voters, before = [pool.submit(vote, f"voter {kill}-{i}") for i in range(4)], len(kept)
            while len(kept) < before + 4 and not any(each.done() for each in voters):
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 2))
            os.killpg(number, signal.SIGKILL)
            os.waitpid(number, 0)
            for each in voters:
                if not isinstance(each.exception(), httpx.TransportError | None):
                    raise RuntimeError(f"a voter met something else than a dead server: {each.exception()!r}")
        votes = book.votes()
        found.kills, found.runs, given = found.kills + 1, found.runs + 1, len(kept)
        names = {"tie": "tie", "skip": "skip"}
        told = {(vote.voter, vote.ballot): (names | {vote.on_left: "left"}).get(vote.choice, "right") for vote in votes}
        lost = sum(told.get(key) != said for key, said in kept.items())
        double = len(votes) - len({(vote.voter, vote.matchup) for vote in votes})
        if lost or double:
            found.differing.append(f"kill {kill}: {lost} lost, {double} double")
        print(f"demo: {found.kills} kills, {given} votes answered, {len(votes)} stored, {len(found.differing)} "
              "times one was lost or double", flush=True)
    found.seconds = time.monotonic() - begun
    return found


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def table_of(rows: list[dict]) -> str:
    lines = ["| what was killed | kills | runs | ended the same, to the bit | run twice, the same |",
             "|---|---|---|---|---|"]
    lines += [f"| {row['kind']} | {row['kills']} | {row['runs']} | {row['same']} of {row['runs']} | "
              f"{ {True: 'yes', False: 'no', None: ''}[row['run twice']]} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=[*KINDS, "demo"])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("kills"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    import_everything(args.kinds)
    rows = []
    for name in args.kinds:
        with tempfile.TemporaryDirectory(prefix=f"kills-{name}-") as folder:
            chance, root = random.Random(args.seed), Path(folder)
            found = prove_demo(args.kills, root, chance) if name == "demo" else \
                prove(name, KINDS[name], args.kills, root, chance)
        rows.append(found.as_dict())
        (args.out / f"{name}.json").write_text(json.dumps(found.as_dict(), indent=2) + "\n")
        (args.out / f"{name}.md").write_text(table_of(rows[-1:]) + "\n")
    print(table_of(rows))
    for line in [line for row in rows for line in row["differing"]]:
        print(line)
    sys.exit(1 if any(row["differing"] for row in rows) else 0)


def import_everything(kinds: list[str]) -> None:
    """What the commands would import; nothing may be computed here, or a fork would wait for threads it has not."""
    import visalign.cli
    import visalign.evaluation.reward_eval
    import visalign.jobs.evaluate
    import visalign.jobs.score
    import visalign.jobs.train
    import visalign.reports.run
    import visalign.trainers.reward.loop

    import diffusers  # isort: skip
    import open_clip  # isort: skip
    import transformers  # isort: skip

    if "demo" in kinds:
        import visalign_demo

        visalign_demo.DemoSettings  # noqa: B018  loaded on first use
    for name in ("StableDiffusion3Pipeline", "SD3Transformer2DModel", "AutoencoderKL"):
        getattr(diffusers, name)
    for name in ("CLIPTextModelWithProjection", "T5EncoderModel", "CLIPTokenizer", "T5TokenizerFast"):
        getattr(transformers, name)
    assert open_clip and visalign


if __name__ == "__main__":
    main()
