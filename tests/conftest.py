"""Tiny random pipelines of the real classes, and a preference set of coloured squares.

torch and all that needs it are imported by fixtures: the process that hands tests to workers has no use for them.
"""

import fcntl
import functools
import gc
import io
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and the networks are small
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from PIL import Image

from tests.programs import together

os.environ.setdefault("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))


@pytest.fixture(autouse=True)
def _fixed_seed():
    import torch

    if torch.cuda.is_available():
        torch.manual_seed(0)
    else:  # which would note for each kind of accelerator where in the program that was
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _unflushed():
    """Nobody waits for the disk, often for longer than for the run: tests end programs, and no machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def of_all_workers(tmp_path_factory) -> Path:
    """A folder of this session alone, in which its workers find what another has made."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "of-all-workers"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True, scope="session")
def _conventions_of_this_session(of_all_workers):
    """What is learnt of tiny pipelines is not kept in the user's own folder."""
    from visalign.generators.observe import keeping

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "FOLDER", of_all_workers / "conventions")
        yield


def pytest_collection_finish():
    """Garbage is looked for among what tests make, and less often than by default: it costs a tenth of a run."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


def pytest_unconfigure():
    gc.unfreeze()  # else libraries say at the end that they leak


def pytest_collection_modifyitems(items):
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def pipelines(of_all_workers):
    """Folder of a tiny random pipeline by name, built on first use."""
    from tests.families import TINY

    root = of_all_workers / "pipelines"
    root.mkdir(exist_ok=True)

    @functools.cache
    def get(name: str) -> Path:
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (root / name).exists():
                TINY[name].build(root / f"{name}.unfinished").rename(root / name)
        return root / name

    return get


COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 180, 70), "yellow": (240, 210, 40),
           "black": (10, 10, 10), "pink": (240, 150, 190)}


class Anything:
    """Has every attribute, takes every call and answers with itself; a MagicMock, in a thousandth of the time."""

    def __getattr__(self, name):
        return self

    def __call__(self, *given, **named):
        return self

    def __getitem__(self, key):
        return self

    def __iter__(self):
        return iter(())


@pytest.fixture
def undrawn(monkeypatch):
    """What charts show is put together and not drawn: half of a tiny run's time is matplotlib's."""
    import numpy as np
    from matplotlib.figure import Figure

    def subplots(figure, lines=1, columns=1, squeeze=True):
        axes = np.empty((lines, columns), dtype=object)
        for place in np.ndindex(axes.shape):
            axes[place] = Anything()
        return axes if not squeeze else axes.item() if axes.size == 1 else axes.squeeze()

    def save(figure, file, **options):
        empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>'
        file.write(empty if isinstance(file, io.TextIOBase) else empty.encode())

    monkeypatch.setattr(Figure, "subplots", subplots)
    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def two_processes(tmp_path):
    """Runs Python code in two processes as under torchrun; the code finds the arguments in sys.argv[1:]."""
    return functools.partial(together, folder=tmp_path)


@pytest.fixture
def pairs_file(tmp_path) -> Path:
    """A JSONL set of six pairs: the chosen image has the prompt's colour, the rejected one another."""
    lines, names = [], list(COLOURS)
    for i, name in enumerate(names):
        for kind, colour in (("chosen", name), ("rejected", names[i - 1])):
            Image.new("RGB", (24, 20), COLOURS[colour]).save(tmp_path / f"{name}-{kind}.png")
        lines.append(json.dumps({"prompt": f"a {name} square", "chosen": f"{name}-chosen.png",
                                 "rejected": f"{name}-rejected.png", "chosen_reward": 1.0 + i, "rejected_reward": 0.1}))
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def video_pairs_file(tmp_path) -> Path:
    """A CSV with VideoGen-RewardBench's columns: six comparisons of short videos in VQ, MQ and TA."""
    from visalign.media.samples import Video
    from visalign.media.video_files import to_video_bytes

    rows = ["path_A,path_B,prompt,VQ,MQ,TA"]
    for i, name in enumerate(COLOURS):
        for side, colour in (("A", name), ("B", list(COLOURS)[i - 1])):
            frames = [Image.new("RGB", (20, 16), "white") for _ in range(5)]
            for k, frame in enumerate(frames):
                frame.paste(COLOURS[colour], (2 * k, 4, 2 * k + 8, 12))
            (tmp_path / f"{name}-{side}.mp4").write_bytes(to_video_bytes(Video(frames, 8.0)))
        rows.append(f"{name}-A.mp4,{name}-B.mp4,a {name} square moves right,A,{'same' if i % 2 else 'B'},A")
    (tmp_path / "videos.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "videos.csv"


@pytest.fixture
def online_recipe(tmp_path, pipelines):
    """Writes a small online recipe as YAML; keyword arguments merge into its sections."""
    import yaml

    from tests.families import TINY

    def write(base: str = "sd3", method: str = "grpo", /, name: str = "recipe.yaml", **sections) -> Path:
        stochastic = {"sampler": "ddim", "noise_level": 1.0} if TINY[base].is_diffusion else {}
        content = {
            "model": {"source": str(pipelines(base)), "resolution": 16, "lora": {"rank": 2, "alpha": 4},
                      "precision": "fp32", "prompt_tokens": 8} | TINY[base].settings,
            "rollout": {"prompts": str(tmp_path / "train.txt"), "prompts_per_epoch": 2, "group_size": 4,
                        "batch_size": 4, "steps": 4, "cache": str(tmp_path / "cache")} | stochastic,
            "reward": {"models": "colourfulness", "retry_wait": 0.01},
            "objective": {"name": method},
            "optim": {"lr": 0.001},
            "train": {"epochs": 3, "batch_size": 4, "device": "cpu"},
            "eval": {"prompts": str(tmp_path / "prompts.txt"), "max_prompts": 2, "steps": 2, "guidance_scale": 1.0,
                     "reward": "colourfulness", "also": ["contrast"], "features": "tiny-clip"},
            "output": {"folder": str(tmp_path / "run"), "trackers": []},
        }
        for section, values in sections.items():
            content[section] = content.get(section, {}) | values
        (tmp_path / "train.txt").write_text("a red fruit\na cat face\na blue heart\na green tree\n")
        (tmp_path / "prompts.txt").write_text("an animal\na flower\n")
        (tmp_path / name).write_text(yaml.safe_dump(content))
        return tmp_path / name

    return write


@pytest.fixture
def recipe(tmp_path, pairs_file, video_pairs_file, pipelines):
    """Writes a small recipe as YAML; keyword arguments replace whole sections or merge into them."""
    import yaml

    from tests.families import TINY

    def write(base: str = "sd3", method: str | None = None, /, name: str = "recipe.yaml", **sections) -> Path:
        method = method or ("diffusion_dpo" if TINY[base].is_diffusion else "flow_dpo")
        tiny = TINY[base]
        content = {
            "model": {"source": str(pipelines(base)), "lora": {"rank": 2, "alpha": 4}, "precision": "fp32",
                      "prompt_tokens": 8} | tiny.settings,
            "data": {"path": str(video_pairs_file if tiny.is_video else pairs_file), "cache": str(tmp_path / "cache"),
                     "holdout": 0.5},
            "objective": {"name": method},
            "optim": {"lr": 0.001},
            "train": {"steps": 4, "batch_size": 2, "device": "cpu"},
            "eval": {"prompts": str(tmp_path / "prompts.txt"), "max_prompts": 2, "steps": 2, "guidance_scale": 1.0,
                     "reward": "tiny-clip", "features": "tiny-clip"},
            "output": {"folder": str(tmp_path / "run"), "checkpoint_every": 2, "trackers": []},
        }
        for section, values in sections.items():
            content[section] = content.get(section, {}) | values
        (tmp_path / "prompts.txt").write_text("a red fruit\na cat face\n")
        (tmp_path / name).write_text(yaml.safe_dump(content))
        return tmp_path / name

    return write
