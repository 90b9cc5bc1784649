"""What stands for a reader's own files, checkpoints and runs while the documentation's commands are checked."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from visalign.generators.files.embedded import EMBEDDED_MODELS
from visalign.storage.open_clip_models import CLIP_ASSETS

STAND_INS = {"/models/my-sdxl": "tiny-sdxl", "/models/my-sd35": "tiny-sd3", "/models/my-sd3": "tiny-sd3",
             "stabilityai/stable-diffusion-xl-base-1.0": "tiny-sdxl",
             "stabilityai/stable-diffusion-3.5-medium": "tiny-sd3",
             "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "tiny-wan",
             "yuvalkirstain/pickapic_v2": "pairs.jsonl"}
"""A checkpoint that is named: an embedded model, or a random one of tests/conftest.py; a data set: a small one here."""

OWN = """
model: {source: tiny-sd3}
data: {path: pairs.jsonl, holdout: 0}
objective: {name: flow_dpo}
eval: {prompts: "emoji:held_out"}
"""
ANSWERS = "".join(json.dumps({"prompt": f"Why {i}?", "answer": f"Because of {i}.", "seed": 0}) + "\n" for i in range(3))
LINES = {"answers/samples.jsonl": ANSWERS, "aligned_answers/samples.jsonl": ANSWERS,
         "text_pairs.jsonl": '{"prompt": "Why?", "chosen": "Because of rain.", "rejected": "No."}\n',
         "prompts.txt": "a red fruit\na cat face\n", "my_prompts.txt": "a red fruit\na cat face\n",
         "my_train_prompts.txt": "a red fruit\na cat face\n",
         "evaluation_metadata.jsonl": '{"prompt": "a photo of a bench", "tag": "single_object"}\n',
         "dpg_prompts/1.txt": "a black cat on a mat\n", "color_val.txt": "a green bench and a red car\n",
         "signs.txt": 'a sign that says "OPEN"\n',
         "votes/votes.csv": "prompt,a_seed,b_seed,choice\na red fruit,1,2,a\n",
         "mine.yaml": OWN, "demo-votes/train_on_votes.yaml": OWN}
COLOURS = ("red", "green", "blue", "yellow")
FOLDERS = ("samples", "my-images", "photos", "mine", "raw", "base-samples")
RUNS = ("quickstart", "adapt-sd3", "flow-grpo", "nft", "curve", "sft-folder", "sdxl-dpo", "video-flow-grpo",
        "guide-tiny-wan", "tiny-goals", "tiny-npo", "sdxl-ppd")


def lay_out(folder: Path) -> None:
    """Fill `folder` with everything that a command of the documentation names."""
    for name, text in LINES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
        for colour in COLOURS:
            Image.new("RGB", (24, 24), colour).save(folder / name / f"{colour}.png")
            (folder / name / f"{colour}.txt").write_text(f"a {colour} square\n")
    for name in RUNS:
        (folder / "runs" / name / "export").mkdir(parents=True)
    shutil.copytree(CLIP_ASSETS / "tiny-reward", folder / "runs" / "reward")
    shutil.copy(EMBEDDED_MODELS["tiny-sdxl"] / "vae" / "diffusion_pytorch_model.safetensors",
                folder / "sdxl_vae.safetensors")
    rows = [{"prompt": f"a {colour} square", "chosen": f"{colour}.png", "rejected": f"not-{colour}.png"}
            for colour in COLOURS]
    for row, colour in zip(rows, COLOURS, strict=True):
        Image.new("RGB", (64, 64), colour).save(folder / row["chosen"])
        Image.new("RGB", (64, 64), "black").save(folder / row["rejected"])
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    annotations = [{"prompt": row["prompt"], "a": str(folder / row["chosen"]), "b": str(folder / row["rejected"]),
                    "alignment": "a", "VQ": "a", "MQ": "a", "TA": "a"} for row in rows]
    for name in ("annotations.parquet", "held_out.parquet", "build/reward/held_out.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(annotations), folder / name)
    absolute = [row | {side: str(folder / row[side]) for side in ("chosen", "rejected")} for row in rows]
    (folder / "pairs").mkdir()
    pq.write_table(pa.Table.from_pylist(absolute), folder / "pairs" / "pairs.parquet")
    (folder / "capo-pairs").mkdir()
    pq.write_table(pa.Table.from_pylist([row | {"chosen_reward": 0.9, "rejected_reward": 0.2} for row in absolute]),
                   folder / "capo-pairs" / "pairs.parquet")
    pq.write_table(pa.Table.from_pylist([row | {"flip_chance": 0.1, "margin": 2.0} for row in absolute]),
                   folder / "annotated.parquet")
    write_videos(folder)


def write_videos(folder: Path) -> None:
    """Comparisons of short videos in VideoGen-RewardBench's columns."""
    rows = ["path_A,path_B,prompt,VQ,MQ,TA"]
    for colour in COLOURS:
        for side in "AB":
            frames = [Image.new("RGB", (16, 16), colour if side == "A" else "black") for _ in range(3)]
            frames[0].save(folder / f"{colour}-{side}.gif", save_all=True, append_images=frames[1:], duration=125)
        (folder / "my-videos").mkdir(exist_ok=True)
        shutil.copy(folder / f"{colour}-A.gif", folder / "my-videos" / f"{colour}.gif")
        (folder / "my-videos" / f"{colour}.txt").write_text(f"a {colour} square\n")
        rows.append(f"{folder / colour}-A.gif,{folder / colour}-B.gif,a {colour} square,A,A,A")
    for name in ("videogen-rewardbench.csv", "build/videos/train.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(rows) + "\n")
