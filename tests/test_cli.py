"""The command line: help is quick, dry runs load nothing, failures are one sentence."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from visalign.cli import main


def invoke(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_help_imports_nothing_heavy():
    code = "import sys; from visalign.cli import main; assert not {'torch', 'pydantic', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    for verb in ("train", "generate", "quickstart", "doctor", "data"):
        assert verb in invoke("--help").output


def test_dry_run_prints_sizes_and_writes_nothing(recipe, tmp_path):
    result = invoke("train", recipe("sd3"), "--dry-run", "train.gradient_accumulation=3")
    assert result.exit_code == 0, result.output
    for words in ("beta: 5000.0", "trainable", "6 pairs", "optimiser steps       4", "GiB"):
        assert words in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["gif", "frames", "webm"])
def test_generated_videos_are_scored_in_every_format(pipelines, tmp_path, kind):
    done = invoke("generate", pipelines("wan"), "a red square moves right", "--samples-per-prompt", 2, "--steps", 2,
                  "--video-format", kind, "--set", "resolution=16", "--set", "frames=5", "--set", "prompt_tokens=8",
                  "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    scored = invoke("score", tmp_path / "out", "--rewards", "prompt_motion,contrast", "--out", tmp_path / "s.parquet")
    assert scored.exit_code == 0, scored.output
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert len(rows) == 2 and all(row["modality"] == "video" and row["contrast.score"] is not None for row in rows)


def test_dry_run_of_videos_says_their_shape_tokens_and_memory(recipe):
    output = invoke("train", recipe("wan"), "--dry-run", "model.resolution=[160,320]", "model.frames=41").output
    assert "41 frames of 160x320 at 16 a second; latents 4x21x80x160, 67,200 tokens" in output
    assert "text encoders" in output and "activations" in output and "peak" in output
    refused = invoke("train", recipe("wan"), "--dry-run", "model.frames=6")
    assert refused.exit_code == 1 and "model.frames 6: WanPipeline makes 1 + 2 k frames" in refused.output


def test_dry_run_counts_the_real_adapter(recipe, pipelines):
    from visalign.generators import load_generator

    generator = load_generator(str(pipelines("sdxl")), "cpu")
    trainable = sum(p.numel() for p in generator.make_trainable("lora", rank=2, alpha=4))
    assert f"trainable {trainable / 1e6:,.3f} M (lora)" in invoke("train", recipe("sdxl"), "--dry-run").output


def test_generate_writes_images_a_grid_and_their_prompts(pipelines, tmp_path):
    result = invoke("generate", pipelines("sdxl"), "a cat face", "a bus", "--samples-per-prompt", 2, "--steps", 2, "-o",
                    tmp_path / "out")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a cat face"] * 2 + ["a bus"] * 2
    assert all((tmp_path / "out" / row["file"]).exists() for row in rows) and (tmp_path / "out" / "grid.png").exists()
    again = invoke("generate", pipelines("sdxl"), "a bus", "-o", tmp_path / "out")
    assert again.exit_code == 1 and "already holds" in again.output


def test_an_interrupted_generation_continues_with_the_same_images(pipelines, tmp_path):
    command = ("generate", pipelines("sdxl"), "a cat face", "a bus", "--samples-per-prompt", 2, "--steps", 2, "-o")
    assert invoke(*command, tmp_path / "whole").exit_code == 0
    assert invoke(*command, tmp_path / "cut").exit_code == 0
    for name in ("samples.jsonl", "00001.png", "00003.png"):  # as after a kill
        (tmp_path / "cut" / name).unlink()
    (tmp_path / "cut" / "settings.json").write_text("{}")
    assert "another command" in invoke(*command, tmp_path / "cut").output
    (tmp_path / "cut" / "settings.json").unlink()
    assert invoke(*command, tmp_path / "cut").exit_code == 0
    for name in ("00000.png", "00001.png", "00002.png", "00003.png", "samples.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_generate_with_an_exported_lora_changes_the_image(pipelines, recipe, tmp_path):
    assert invoke("train", recipe("sd3", optim={"lr": 0.05})).exit_code == 0
    for name, extra in (("plain", []), ("tuned", ["--lora", tmp_path / "run" / "export"])):
        result = invoke("generate", pipelines("sd3"), "a bus", "--samples-per-prompt", 1, "--steps", 2, "-o",
                        tmp_path / name, "--precision", "fp32", *extra)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "plain" / "00000.png").read_bytes() != (tmp_path / "tuned" / "00000.png").read_bytes()


def test_a_lora_of_another_family_or_pickled_is_refused(pipelines, tmp_path):
    (tmp_path / "lora.pt").write_bytes(b"x")
    result = invoke("generate", pipelines("sd3"), "x", "--lora", tmp_path / "lora.pt", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "pickled" in result.output


def test_data_check_reports_and_fails_on_broken_rows(pairs_file, tmp_path):
    sheet = tmp_path / "sheet.png"
    good = invoke("data", "check", pairs_file, "--sheet", sheet)
    assert good.exit_code == 0 and "6 pairs of 6 prompts" in good.output and sheet.exists()
    pairs_file.write_text(pairs_file.read_text() + "broken\n")
    bad = invoke("data", "check", pairs_file, "--sheet", sheet)
    assert bad.exit_code == 1 and "line 7" in bad.output


def test_doctor_lists_versions_and_fixes():
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for word in ("torch ", "diffusers", "device:", "attention:", "pip install"):
        assert word in result.output


@pytest.mark.parametrize("arguments, word", [
    (["train", "nowhere.yaml"], "nowhere.yaml"),
    (["quickstart", "model=tiny-sd4"], "tiny-sd3"),
    (["data", "check", "nowhere.jsonl"], "nowhere.jsonl"),
    (["generate", "/nowhere", "a cat"], "/nowhere"),
])
def test_failures_are_one_sentence_with_exit_code_one(arguments, word):
    result = invoke(*arguments)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert result.output.startswith("visalign: ") and word in result.output
    assert len(result.output.strip().splitlines()) == 1
