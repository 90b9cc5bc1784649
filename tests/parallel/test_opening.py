"""Accelerate's files are what accelerate reads; what does not go with shards is said before anything is loaded."""

import argparse
import importlib.util
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from visalign.config.load import load_config
from visalign.config.recipes import recipes
from visalign.errors import UserError, notice
from visalign.jobs.dry_run import describe_run
from visalign.parallel.division import Division, as_configured, division
from visalign.parallel.opening import check_configuration, open_processes
from visalign.trainers.opening import check_sharded

FILES = sorted((Path(__file__).resolve().parents[2] / "configs" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_every_file_and_sets_what_the_engine_is_chosen_by(file, monkeypatch):
    config = load_config_from_file(str(file))
    assert config.num_processes % config.num_machines == 0 and file.read_text().startswith("# ")
    words = ["--config_file", str(file), "-m", "visalign", "train", "quickstart"]
    args: argparse.Namespace = _validate_launch_command(launch_command_parser().parse_args(words))[0]
    zero = file.stem.startswith("zero")
    args.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
    environment = prepare_deepspeed_cmd_env(args)[1] if zero else prepare_multi_gpu_env(args)
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") == file.stem.startswith("fsdp2")
    assert (environment.get("ACCELERATE_USE_DEEPSPEED") == "true") == zero
    for name in environment:
        if name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_")):
            monkeypatch.setenv(name, environment[name])
    check_configuration()
    if file.stem == "fsdp2_nodes":
        sizes = [int(environment[f"PARALLELISM_CONFIG_DP_{name}_SIZE"]) for name in ("REPLICATE", "SHARD")]
        assert sizes[0] * sizes[1] == config.num_processes and sizes[0] == config.num_machines


def test_they_are_no_recipes():
    assert len(FILES) == 4 and not [name for name in recipes() if "accelerate" in name]


def test_that_accelerate_starts_one_process_on_a_cpu_is_said(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    notice.cache_clear()
    check_configuration()
    assert "it starts one process, whatever its configuration asks" in capsys.readouterr().err


@pytest.mark.parametrize("name, expected", [("ddp", Division(8)), ("fsdp2", Division(8, 8, 8)),
                                            ("fsdp2_nodes", Division(32, 8, 8)), ("zero2", Division(8, state=8))])
def test_a_plan_is_of_the_first_process_of_a_configuration(name, expected):
    with as_configured(next(file for file in FILES if file.stem == name)):
        assert division() == expected
    assert division() == Division()


def test_a_dry_run_says_what_one_of_several_processes_holds(recipe, tmp_path):
    with as_configured(next(file for file in FILES if file.stem == "fsdp2")):
        said = describe_run(load_config(recipe("sd3")))
    assert "one of 8 processes, each with 1/8 of the network" in said and "gathered weights" in said
    assert Division(8, 8, 8).part(torch.zeros(9, 4)) == 8 and Division(3, state=3).flat(7) == 4
    (tmp_path / "other.yaml").write_text("num_processes: many\n")
    with pytest.raises(UserError, match="other.yaml: is no configuration of accelerate"), \
            as_configured(tmp_path / "other.yaml"):
        pass


@pytest.fixture
def shards(monkeypatch):
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name, value, words", [
    ("FSDP_VERSION", "1", "set fsdp_version: 2"),
    ("FSDP_RESHARD_AFTER_FORWARD", "false", "leave it true"),
    ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "use TRANSFORMER_BASED_WRAP"),
    ("ACCELERATE_MIXED_PRECISION", "fp16", "use bf16 or no")])
def test_what_accelerate_offers_and_this_does_not_is_named(shards, monkeypatch, name, value, words):
    check_configuration()
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        check_configuration()


@pytest.mark.parametrize("name, value, words", [
    ("ZERO_STAGE", "3", "zero_stage 3 is not supported, only 2; configs/accelerate/fsdp2.yaml"),
    ("OFFLOAD_PARAM_DEVICE", "cpu", "offload_param_device is not supported"),
    ("CONFIG_FILE", "mine.json", "deepspeed_config_file is not read")])
def test_what_deepspeed_offers_and_this_does_not_is_named(monkeypatch, name, value, words):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    if importlib.util.find_spec("deepspeed") is None:
        with pytest.raises(UserError, match=r"pip install 'visalign\[deepspeed\]'"):
            open_processes(timedelta(minutes=1))
    check_configuration()
    monkeypatch.setenv(f"ACCELERATE_DEEPSPEED_{name}", value)
    with pytest.raises(UserError, match=words):
        check_configuration()


@pytest.mark.parametrize("sections, words", [
    ({"optim": {"name": "adafactor"}}, "optim.name adafactor: looks at whole tensors"),
    ({"model": {"quantization": "int8"}}, "model.quantization int8: packed weights cannot be divided"),
    ({"model": {"offload": "blocks", "tuning": "full"}}, "model.offload blocks: moves whole blocks"),
    ({"model": {"compile": True}}, "model.compile"), ({"model": {"precision": "fp16"}}, "model.precision fp16"),
    ({"optim": {"fused_backward": True, "grad_clip": None}, "model": {"tuning": "full"}}, "optim.fused_backward")])
def test_what_does_not_go_with_shards_is_said_in_one_sentence(shards, monkeypatch, recipe, sections, words):
    config = load_config(recipe("sd3", **sections))
    with pytest.raises(UserError, match=words):
        check_sharded(config)
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_sharded(config)
