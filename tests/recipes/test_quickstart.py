"""The embedded models align for real: more samples of held-out prompts are of the right group of drawings."""

import json

import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.data.embedded_pairs import drawing_rows
from visalign.evaluators import mean_with_interval

MODELS = ["tiny-sd3", "tiny-sdxl"]
SHORT = ["train.steps=3", "optim.warmup_steps=0", "eval.max_prompts=3", "eval.steps=4"]
FEW = {"tiny-sd3": "data.feedback.max_prompts=4", "tiny-sdxl": "data.max_pairs=40"}
GAIN = {"tiny-sd3": ("reward/tiny-clip", 0.0), "tiny-sdxl": ("reward/tiny-group", 0.05)}
"""What a quickstart raises at least, by the lower end of the interval (measured: 0.015 and 0.077)."""


def quickstart(model, tmp_path, *overrides):
    """Runs the command; what it printed, and its run's held-out rows, first and last."""
    result = CliRunner().invoke(main, [
        "--debug", "quickstart", f"model={model}", f"output.folder={tmp_path / 'run'}",
        f"data.cache={tmp_path / 'cache'}", "eval.every=0", *overrides], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    before, after = (row for row in rows if row["kind"] == "held_out")
    assert set(before["prompts"]).isdisjoint(row["prompt"] for _, row in drawing_rows())
    return result.output, before, after


@pytest.mark.parametrize("model", MODELS)
def test_quickstart_trains_and_says_where_to_look_and_what_to_type(model, tmp_path):
    output, before, after = quickstart(model, tmp_path, FEW[model], *SHORT)
    assert before["values"].keys() == after["values"].keys() >= {"reward/tiny-clip", "reward/tiny-group",
                                                                 "diversity/distance"}
    assert before["values"]["reward/tiny-clip"] != after["values"]["reward/tiny-clip"]
    lines = output.splitlines()
    assert sum(line.startswith("verdict ") for line in lines) == 1
    for name, file in (("before and after", "before_after.png"), ("report", "report.html")):
        assert any(line.startswith(f"{name} ") and line.endswith(file) for line in lines), output
        assert (tmp_path / "run" / file).stat().st_size > 5_000
    after_next = [line.strip() for line in lines[lines.index("next:") + 1:] if line.startswith("  ")]
    assert [line.split()[:2] for line in after_next] == [["python", "-m"], ["visalign", "generate"],
                                                         ["visalign", "init"]]
    assert "tiny-group on held-out prompts, not optimised" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_quickstart_shows_its_gain_on_held_out_prompts(model, tmp_path, capsys):
    output, before, after = quickstart(model, tmp_path)
    metric, least = GAIN[model]
    gain, diversity = (mean_with_interval([b - a for a, b in zip(before["values"][name], after["values"][name],
                                                                 strict=True)])
                       for name in (metric, "diversity/distance"))
    with capsys.disabled():
        print(f"\n{model}: {metric} {gain}, diversity {diversity}\n{output}")
    assert len(before["prompts"]) == 96 and gain.low > least
    assert "diversity within a prompt" in output


@pytest.mark.parametrize("model", MODELS)
def test_embedded_model_loads_with_plain_diffusers(model):
    from diffusers import DiffusionPipeline

    from visalign.generators.files.embedded import EMBEDDED_MODELS

    pipeline = DiffusionPipeline.from_pretrained(EMBEDDED_MODELS[model])
    image = pipeline("a red heart", num_inference_steps=4, guidance_scale=3.0).images[0]
    assert image.size == (64, 64) and image.getextrema() != ((0, 0),) * 3
