"""The embedded models align for real: on held-out prompts the reward rises with an interval clear of zero."""

import json

import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.evaluators import mean_with_interval

MODELS = ["tiny-sd3", "tiny-sdxl"]
SHORT = ["data.feedback.max_prompts=4", "train.steps=3", "optim.warmup_steps=0", "eval.max_prompts=3", "eval.steps=4"]


def quickstart(model, tmp_path, *overrides):
    """Runs the command; its run's held-out rows, first and last."""
    result = CliRunner().invoke(main, [
        "--debug", "quickstart", f"model={model}", f"output.folder={tmp_path / 'run'}",
        f"data.cache={tmp_path / 'cache'}", "eval.every=0", *overrides], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "report.html" in result.output and (tmp_path / "run" / "report.html").stat().st_size > 20_000
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    before, after = (row for row in rows if row["kind"] == "held_out")
    assert set(before["prompts"]).isdisjoint(row["prompt"] for row in pairs(tmp_path / "run" / "pairs.parquet"))
    return before, after


@pytest.mark.parametrize("model", MODELS)
def test_quickstart_makes_pairs_trains_and_reports(model, tmp_path):
    before, after = quickstart(model, tmp_path, *SHORT)
    assert before["values"].keys() == after["values"].keys() >= {"reward/tiny-clip", "diversity/distance"}
    assert before["values"]["reward/tiny-clip"] != after["values"]["reward/tiny-clip"]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_quickstart_raises_the_reward_on_held_out_prompts(model, tmp_path, capsys):
    before, after = quickstart(model, tmp_path, "eval.max_prompts=64")
    reward, diversity = (mean_with_interval([b - a for a, b in zip(before["values"][name], after["values"][name],
                                                                 strict=True)])
                       for name in ("reward/tiny-clip", "diversity/distance"))
    with capsys.disabled():
        print(f"\n{model}: reward {reward}, diversity {diversity}")
    assert reward.low > 0


def pairs(file):
    import pyarrow.parquet as pq

    return pq.read_table(file, columns=["prompt"]).to_pylist()


@pytest.mark.parametrize("model", MODELS)
def test_embedded_model_loads_with_plain_diffusers(model):
    from diffusers import DiffusionPipeline

    from visalign.generators.loading import EMBEDDED_MODELS

    pipeline = DiffusionPipeline.from_pretrained(EMBEDDED_MODELS[model])
    image = pipeline("a red heart", num_inference_steps=4, guidance_scale=3.0).images[0]
    assert image.size == (64, 64) and image.getextrema() != ((0, 0),) * 3
