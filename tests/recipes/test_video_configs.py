"""Every recipe for videos validates, and runs end to end on a tiny network of a family that stands for all."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.families import TINY as PIPELINES
from tests.tiny.videos import build_wan, wan_transformer
from visalign.cli import main
from visalign.config import GuideConfig
from visalign.config.load import load_config
from visalign.trainers.online.epoch_shape import check_arithmetic

from .guide_of_recipe import guide_source
from .model_of_recipe import source_of

ROOT = Path(__file__).resolve().parents[2] / "configs"
CONFIGS, GUIDES = sorted((ROOT / "video").glob("*.yaml")), sorted((ROOT / "guide").glob("*.yaml"))
TINY = {"tiny-wan": "wan", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "wan", "Wan-AI/Wan2.2-T2V-A14B-Diffusers": "wan22",
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": "wan-image", "Lightricks/LTX-Video": "ltx",
        "hunyuanvideo-community/HunyuanVideo": "hunyuan", "THUDM/CogVideoX-2b": "cogvideox", "tiny-sd3": "sd3",
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v": "hunyuan15", "Lightricks/LTX-2": "ltx2"}
RUN = [file for file in CONFIGS if PIPELINES[TINY[source_of(file)]].stands_for_all
       or "wan22" in file.name]


@pytest.fixture
def pipeline(pipelines, tmp_path):
    def get(source: str):
        name = TINY[source]
        if name != "wan22":
            return pipelines(name), PIPELINES[name].settings
        folder = build_wan(tmp_path / "wan22", transformer_2=wan_transformer(1), boundary_ratio=0.6)
        return folder, PIPELINES["wan"].settings
    return get


def small_model(folder, shape: dict, tmp_path: Path) -> list[str]:
    return [f"model={folder}", "model.precision=fp32", "model.prompt_tokens=8",
            *(f"model.{key}={json.dumps(value)}" for key, value in shape.items()), "train.device=cpu",
            "output.trackers=[]", f"output.folder={tmp_path / 'run'}"]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipe_validates(file):
    config = load_config(file)
    assert config.model.source in TINY
    if config.loop == "online":
        check_arithmetic(config, 1)


@pytest.mark.parametrize("file", RUN, ids=lambda file: file.stem)
def test_recipe_runs_on_a_tiny_network(file, pipeline, video_pairs_file, tmp_path):
    config = load_config(file)
    image = tmp_path / "first.png"
    Image.new("RGB", (32, 16), "red").save(image)
    given = f"@@{image}" if TINY[config.model.source] == "wan-image" else ""
    (tmp_path / "prompts.txt").write_text("".join(f"a {colour} square moves right{given}\n"
                                                  for colour in ("red", "blue", "green")))
    prompts = tmp_path / "prompts.txt"
    overrides = [*small_model(*pipeline(config.model.source), tmp_path), f"eval.prompts={prompts}", "eval.every=0",
                 "eval.max_prompts=1", "eval.samples_per_prompt=2", "eval.steps=2", "eval.reward=motion",
                 "eval.also=[]", "eval.features=tiny-clip"]
    if config.loop == "offline":
        overrides += [f"data.cache={tmp_path / 'cache'}", "data.holdout=0", "train.steps=2", "train.batch_size=2",
                      "train.gradient_accumulation=1"]
        overrides += [f"data.feedback.prompts={prompts}", "data.feedback.steps=2"] if config.data.feedback else [
            f"data.path={video_pairs_file}", "data.dimensions={VQ: 1.0, MQ: 1.0, TA: 1.0}"]
        overrides += ["data.score_with=motion"] if config.data.score_with else []
    else:
        group = 5 if config.rollout.group_size % 2 else 4
        best_of = ["objective.best_of=2"] if config.objective.get("best_of") else []
        overrides += [f"rollout.cache={tmp_path / 'cache'}", f"rollout.prompts={prompts}", *best_of,
                      "rollout.prompts_per_epoch=2", f"rollout.group_size={group}", f"rollout.batch_size={group}",
                      "rollout.steps=4", "train.epochs=1", "train.updates_per_epoch=1", "train.batch_size=4",
                      "reward.models=[motion, contrast]"]
        if config.advantage.get("schedule"):
            overrides.append("advantage.schedule={layout: [contrast], texture: [motion], split: 0.8}")
        kind = TINY[config.model.source]
        overrides += guide_source(config, tmp_path, pipeline(config.model.source)[0], kind)
    result = CliRunner().invoke(main, ["--debug", "train", str(file), *overrides], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "report.html").stat().st_size > 5000


@pytest.mark.parametrize("file", GUIDES, ids=lambda file: file.stem)
def test_guide_recipe_runs_on_a_tiny_network(file, pipeline, pairs_file, video_pairs_file, tmp_path):
    config = load_config(file, kind=GuideConfig)
    data, names = video_pairs_file, ["VQ", "MQ"]
    if config.model.source == "tiny-sd3":
        rows = [json.loads(line) for line in pairs_file.read_text().splitlines()]
        data, names = tmp_path / "images.jsonl", ["VQ"]
        data.write_text("\n".join(json.dumps({"prompt": row["prompt"], "a": row["chosen"], "b": row["rejected"],
                                              "VQ": "a"}) for row in rows))
        folder, shape = pipeline(config.model.source)[0], {"resolution": 16}
    else:
        folder, shape = pipeline(config.model.source)
    overrides = [*small_model(folder, shape, tmp_path), f"data.cache={tmp_path / 'cache'}", f"data.path={data}",
                 f"data.holdout_path={data}", f"head.dimensions={json.dumps(names)}", "head.blocks=[0, 1]",
                 "head.width=16", "train.steps=2", "train.batch_size=4"]
    result = CliRunner().invoke(main, ["--debug", "guide", "train", str(file), *overrides], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "guide" / "guide.safetensors").exists()
