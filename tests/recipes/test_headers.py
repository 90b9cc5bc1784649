"""Every recipe runs with no more than what the command in its header gives."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from tests.families import TINY as PIPELINES
from visalign.cli import main
from visalign.config.load import load_config
from visalign.generators import FAMILIES
from visalign.rewards.vlm import UnifiedRewardPairs, VlmEdit

from .guide_of_recipe import guide_source
from .model_of_recipe import source_of
from .pairs_of_recipe import write_what_is_asked
from .test_online_configs import TINY as IMAGES
from .test_video_configs import TINY as VIDEOS

ROOT = Path(__file__).resolve().parents[2] / "configs"
TINY = IMAGES | VIDEOS | {
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": "wan", "black-forest-labs/FLUX.1-Kontext-dev": "flux_kontext",
    "Qwen/Qwen-Image-Edit-2509": "qwen_image_edit_plus", "Qwen/Qwen-Image-Edit-2511": "qwen_image_edit_plus"}
RECIPES = [file for file in sorted(ROOT.rglob("*.yaml")) if file.parent.name in (ROOT.name, "online", "video", "edit")]
FULL_SIZE = [file for file in RECIPES if not source_of(file).startswith("tiny-")]


LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
"""Of the tiny SDXL."""


def given(file: Path) -> dict[str, str]:
    """What the header's command for this recipe overrides."""
    name = file.relative_to(ROOT).with_suffix("").as_posix()
    [command] = re.findall(rf"^#   visalign train {re.escape(name)}( .*)?$", file.read_text(), re.MULTILINE)
    return dict(word.split("=", 1) for word in shlex.split(command))


def write_what_the_header_says(file: Path, folder: Path) -> None:
    """The reward's YAML file that a header asks for and the text that it names, and the direction that it learns."""
    for name in re.findall(r"^#   visalign reward direct .* -o (\S+)", file.read_text(), re.MULTILINE):
        save_file({"direction": torch.zeros(1024)}, folder / name)
    for name, content in re.findall(r"^# Write (\S+) first: (\{.*\})$", file.read_text(), re.MULTILINE):
        (folder / name).write_text(content)
        (folder / "instruction.txt").write_text("{prompt} <|VQ_reward|> <|MQ_reward|> <|TA_reward|>")


def stand_in(key: str, value: str, first: Path, folder: Path, pairs: Path, video_pairs: Path) -> Path | str:
    """A file or folder of the kind that a header names."""
    if key == "model.lora.start":
        save_file({f"{LAYER}.lora_down.weight": torch.ones(2, 16), f"{LAYER}.lora_up.weight": torch.ones(16, 2)},
                  folder / value)
        return folder / value
    if value.startswith("edit:"):
        file = folder / "edits.csv"
        file.write_text("prompt,source\n" + "".join(f"make it {each},{first}\n" for each in ("red", "blue", "green")))
        return Path(f"edit:{file}")
    if key == "rollout.prompts":
        suffix = f"@@{first}" if "I2V" in value else ""
        file = folder / "prompts.txt"
        file.write_text("".join(f"a {colour} fruit{suffix}\n" for colour in ("red", "blue", "green", "pink", "black")))
        return file
    if key == "data.sources":
        sources = [one | {"path": str(folder / one["path"] if (folder / one["path"]).is_dir() else pairs)}
                   for one in yaml.safe_load(value)]
        return json.dumps(sources)
    return video_pairs if value.endswith(".csv") else folder / value if (folder / value).is_dir() else pairs


@pytest.mark.parametrize("file", FULL_SIZE, ids=lambda file: file.relative_to(ROOT).with_suffix("").as_posix())
def test_a_full_size_recipe_needs_what_its_header_gives_and_nothing_else(file, pipelines, pairs_file, video_pairs_file,
                                                                         captioned, tmp_path, monkeypatch):
    config = load_config(file)
    kind = TINY[config.model.source]
    first = tmp_path / "first.png"
    Image.new("RGB", (32, 16), "red").save(first)
    image = {"rollout.prompts": "I2V"} if kind == "wan-image" else {}
    overrides = [f"{key}={stand_in(key, image.get(key, value), first, captioned, pairs_file, video_pairs_file)}"
                 for key, value in given(file).items()]
    if FAMILIES[PIPELINES[kind].family].sources and config.loop == "offline":
        pairs_file.write_text("".join(json.dumps(json.loads(line) | {"source": str(first)}) + "\n"
                                      for line in pairs_file.read_text().splitlines()))
    if config.loop == "offline":
        write_what_is_asked(pairs_file, config)
    of_hub = not {"data.path", "data.sources"} & given(file).keys() and config.loop == "offline"
    if of_hub and not (config.data.feedback or config.data.subject):
        overrides.append(f"data.path={pairs_file}")
    write_what_the_header_says(file, tmp_path)
    overrides = [each for each in overrides if not each.startswith("rollout.guide.source=")]
    overrides += guide_source(config, tmp_path, pipelines(kind), kind)
    shape = PIPELINES[kind].settings or {"resolution": 16}
    monkeypatch.chdir(tmp_path)
    for judge in (VlmEdit, UnifiedRewardPairs):  # a header asks for its server
        monkeypatch.setattr(judge, "check", lambda self: None)
    done = CliRunner().invoke(main, ["train", str(file), "--dry-run", f"model={pipelines(kind)}",
                                     "model.prompt_tokens=8", "train.device=cpu", *overrides,
                                     *(f"model.{key}={json.dumps(value)}" for key, value in shape.items())])
    assert done.exit_code == 0, done.output


@pytest.fixture
def captioned(tmp_path):
    """The folders my_images and my_videos, of two captioned media each."""
    from visalign.media.samples import Video
    from visalign.media.video_files import to_video_bytes

    for name in ("my_images", "my_videos"):
        (tmp_path / name).mkdir()
        for number in range(2):
            image = Image.new("RGB", (16, 16), (90 * number, 40, 40))
            if name == "my_images":
                image.save(tmp_path / name / f"{number}.png")
            else:
                (tmp_path / name / f"{number}.mp4").write_bytes(to_video_bytes(Video([image] * 5, 8.0)))
            (tmp_path / name / f"{number}.txt").write_text(f"caption {number}")
    return tmp_path


def guided_by(config) -> str | None:
    """The guide that a recipe's samples follow."""
    return config.rollout.guide.source if config.loop == "online" and config.rollout.guide else None


@pytest.mark.parametrize("file", [file for file in RECIPES if file not in FULL_SIZE],
                         ids=lambda file: file.relative_to(ROOT).with_suffix("").as_posix())
def test_an_embedded_recipe_names_no_file_that_is_not_made_by_what_its_header_says(file):
    config, header = load_config(file), file.read_text().split("\nmodel:")[0]
    named = [source for source in (getattr(config.data, "path", None) if config.loop == "offline"
                                   else config.rollout.votes, config.eval.prompts, guided_by(config))
             if isinstance(source, str) and ":" not in source]
    assert all(Path(source).parts[0] in header for source in named)
