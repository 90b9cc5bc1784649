"""`visalign soup`: the weights of what it writes, and what has no average."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from tests.families import load_tiny
from visalign.cli import main
from visalign.config import ModelSettings
from visalign.config.load import load_config
from visalign.config.recipes import find_recipe
from visalign.errors import UserError
from visalign.evaluation.sources import source_of
from visalign.generators import load_generator
from visalign.generators.export.exporting import export
from visalign.generators.lora.adapters import remove_adapters
from visalign.generators.lora.layers import fuse
from visalign.jobs.soup import make_soup
from visalign.storage.run_folder import RunFolder

_READ = {}


@pytest.fixture
def plain(pipelines):
    """The tiny generator of a model, read once, without adapters."""
    def get(model="sd3"):
        generator = _READ.setdefault(model, None) or load_tiny(pipelines(model), model)
        _READ[model] = generator
        generator.unload_adapter()
        return generator

    return get


@pytest.fixture
def finished(recipe, plain, tmp_path):
    """The folder of a run that has ended, whose weights are random."""
    def made(name, model="sd3", seed=1, below=None, **tuned):
        tuned = {"tuning": "lora", "rank": 2, "alpha": 6} | tuned
        loras = [{"path": str(below)}] if below else []
        config = load_config(recipe(model, model={"tuning": tuned["tuning"], "loras": loras}))
        generator = load_generator(config.model, "cpu") if below or tuned["tuning"] == "full" else plain(model)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in generator.make_trainable(**tuned):
                parameter.add_(0.1 * torch.randn_like(parameter))
        folder = RunFolder(tmp_path / name, config).path
        export(generator, folder / "export", config, {})
        remove_adapters(generator.denoiser)
        return folder

    return made


@pytest.fixture
def merged(plain):
    """The denoiser's weights of a base with a LoRA added to them."""
    def weights(lora, model="sd3"):
        generator = plain(model)
        if lora:
            generator.load_adapter(lora)
        network = copy.deepcopy(generator.denoiser)
        generator.unload_adapter()
        fuse(network)
        return network.state_dict()

    return weights


def alike(found, wanted):
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).abs().max()) for name in found)


def test_one_run_at_weight_1_is_that_run(finished, merged, tmp_path):
    run = finished("a")
    soup = make_soup((str(run),), tmp_path / "out")
    assert alike(merged(tmp_path / "out"), merged(run)) < 1e-6
    assert alike(merged(run), merged(None)) > 1e-2
    assert soup.words == f"1 of {run}" and soup.rank == (2, 2, 0.0)


def test_two_runs_are_the_mean_of_the_merged_models_and_other_weights_leave_the_rest_to_the_base(finished, merged,
                                                                                                tmp_path):
    a, b = finished("a"), finished("b", seed=2)
    first, second, base = merged(a), merged(b), merged(None)
    make_soup((str(a), str(b)), tmp_path / "mean")
    assert alike(merged(tmp_path / "mean"), {name: (first[name] + second[name]) / 2 for name in base}) < 1e-6
    soup = make_soup((f"{a}=0.5", f"{b}=-0.25"), tmp_path / "out")
    wanted = {name: 0.75 * base[name] + 0.5 * first[name] - 0.25 * second[name] for name in base}
    assert alike(merged(tmp_path / "out"), wanted) < 1e-6
    about = json.loads((tmp_path / "out" / "soup.json").read_text())
    assert about["rest"] == 0.75 and about["rank"] == about["ranks_sum"] == 4 and about["trained"] == "a LoRA"
    assert about["runs"] == [{"run": "a", "objective": "flow_dpo", "weight": 0.5},
                             {"run": "b", "objective": "flow_dpo", "weight": -0.25}]
    assert soup.words == f"0.5 of {a}, -0.25 of {b}, 0.75 of the base {source(a)}"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| a | flow_dpo | 0.5 |" in card and "0.75 of the base" in card and "load_lora_weights" in card
    assert str(tmp_path) not in card and "model-soup" in card


def source(run):
    from visalign.evaluation.sources import run_config

    return run_config(run).model.source


def test_a_smaller_rank_is_told_with_what_it_costs(finished, merged, tmp_path):
    a, b = finished("a"), finished("b", seed=2)
    done = CliRunner().invoke(main, ["soup", str(a), str(b), "--rank", "3", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "rank 3, reduced from 4: " in done.output and f"made of 0.5 of {a}, 0.5 of {b}\n" in done.output
    about = json.loads((tmp_path / "out" / "soup.json").read_text())
    assert about["rank"] == 3 and 0.01 < about["lost"] < 0.9
    shapes = {tensor.shape[0] for name, tensor in load_file(
        tmp_path / "out" / "pytorch_lora_weights.safetensors").items() if name.endswith("lora_A.weight")}
    assert shapes == {3}


def test_a_soup_is_a_source_like_any_lora(finished, pipelines, tmp_path):
    make_soup((f"{finished('a')}=0.5",), tmp_path / "out")
    like = ModelSettings(source=str(pipelines("sd3")), precision="fp32", prompt_tokens=8)
    generator = source_of("soup", f"{pipelines('sd3')}+{tmp_path / 'out'}", like).load("cpu")
    [[image]] = generator.sample(["a cat"], [1], steps=1, guidance_scale=1.0)
    assert image.size == (16, 16)


def test_what_a_run_began_with_is_averaged_with_it_on_text_encoders_too(finished, plain, tmp_path):
    stem = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    save_file({f"{stem}.lora_A.weight": torch.randn(2, 16), f"{stem}.lora_B.weight": torch.randn(16, 2)},
              tmp_path / "text.safetensors")
    run = finished("a", below=tmp_path / "text.safetensors")
    soup = make_soup((f"{run}=0.5",), tmp_path / "out")
    assert "with the LoRAs that it began with" in soup.words
    whole, half = (plain().fit_adapter(folder)["text_encoder"] for folder in (run, tmp_path / "out"))
    assert whole.keys() == half.keys() and len(whole) == 1
    for name, each in whole.items():
        torch.testing.assert_close(half[name].up @ half[name].down, 0.5 * each.up @ each.down)


def unet(folder):
    return load_file(folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")


def test_all_weights_are_interpolated_and_at_weight_1_they_are_the_run_s_to_the_bit(finished, pipelines, tmp_path):
    a, b = finished("a", "sd15", tuning="full"), finished("b", "sd15", seed=2, tuning="full")
    base = load_file(pipelines("sd15") / "unet" / "diffusion_pytorch_model.safetensors")
    first, second = unet(a / "export"), unet(b / "export")
    make_soup((str(a),), tmp_path / "one")
    assert alike(unet(tmp_path / "one"), first) == 0
    soup = make_soup((f"{a}=0.25", f"{b}=0.5"), tmp_path / "out")
    wanted = {name: 0.25 * (base[name] + first[name]) + 0.5 * second[name] for name in base}
    assert alike(unet(tmp_path / "out"), wanted) < 1e-6
    assert soup.files == ["pipeline", "model.safetensors", "README.md", "soup.json"] and soup.rank is None
    assert f"soup={tmp_path / 'out' / 'pipeline'}" in soup.next
    assert "from_pretrained(\"path/to/this/folder/pipeline\")" in (tmp_path / "out" / "README.md").read_text()


def refused(*given, out, rank=None):
    with pytest.raises(UserError) as error:
        make_soup(tuple(map(str, given)), Path(out), rank)
    assert not Path(out).exists() or Path(out).name == "taken"
    return str(error.value)


def test_what_has_no_average_is_said_in_a_sentence_before_a_model_is_loaded(finished, tmp_path, monkeypatch):
    a, b = finished("a"), finished("b", seed=2)
    dora, out = finished("dora", kind="dora"), tmp_path / "out"
    whole, other = (shutil.copytree(a, tmp_path / name) for name in ("whole", "other"))
    change(whole, "tuning: lora", "tuning: full")
    change(other, f"source: {source(a)}", "source: tiny-sd3")
    monkeypatch.setattr("visalign.jobs.soup.load_generator", None)
    assert "expected RUN or RUN=WEIGHT" in refused(f"{a}=much", out=out)
    assert "the weight must be at least -10 and at most 10 and not 0" in refused(f"{a}=0", out=out)
    assert "the weight must be at least -10" in refused(f"{a}=inf", out=out)
    assert f"soup {b}: has no weight" in refused(f"{a}=0.5", b, out=out)
    assert "is named twice" in refused(f"{a}=0.5", f"{a}=0.2", out=out)
    assert "trained a LoRA and all weights" in refused(a, whole, out=out)
    assert "have different bases (model.source" in refused(a, other, out=out)
    assert "is a dora, and only LoRAs" in refused(a, dora, out=out)
    assert "--rank is for LoRAs" in refused(whole, out=out, rank=4)
    assert "config.yaml" in refused(tmp_path / "nowhere", out=out)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    assert "is there already" in refused(a, out=tmp_path / "taken")
    shutil.rmtree(b / "export")
    assert f"soup {b}: has no export yet" in refused(a, b, out=out)
    assert "name at least one run" in refused(out=out)


def test_runs_that_are_negative_adapters_or_ask_for_scores_are_not_mixed_with_others(finished, tmp_path):
    a, b = finished("a"), finished("b", seed=2)
    change(b, "swap: false", "swap: true")
    assert "as a negative adapter (data.swap)" in refused(a, b, out=tmp_path / "out")
    change(b, "swap: true", "swap: false")
    change(b, "goals: null", "goals: {template: '{prompt}, {goal} of {best}'}")
    assert "(data.goals)" in refused(a, b, out=tmp_path / "out")
    make_soup((f"{b}=0.5",), tmp_path / "asked")
    assert "{goal}" in (tmp_path / "asked" / "goals.json").read_text()


def change(run, old, new):
    text = (run / "config.yaml").read_text()
    assert text.count(old) == 1
    (run / "config.yaml").write_text(text.replace(old, new))


def test_whole_models_of_another_base_or_above_loras_are_refused(finished, tmp_path):
    run = finished("a", "sd15", tuning="full")
    file = run / "export" / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
    assert "it was made from another base" in refused(run, out=tmp_path / "out")
    save_file(tensors | {name: torch.zeros(3)}, file)
    assert "have other shapes than in its base" in refused(run, out=tmp_path / "out")
    save_file({"x.lora_A.weight": torch.zeros(1)}, tmp_path / "l.safetensors")
    change(run, "loras: []", f"loras: [{{path: {tmp_path / 'l.safetensors'}, strength: 1}}]")
    assert "trained all weights above model.loras" in refused(run, out=tmp_path / "out")


@pytest.mark.parametrize("name, words", [("tiny_ppd", "learnt who prefers what (model.tuning user)"),
                                         ("language/dpo", "is a language model's run")])
def test_runs_of_users_and_of_language_models_are_refused(tmp_path, name, words):
    folder = RunFolder(tmp_path / "run", load_config(find_recipe(name))).path
    (folder / "export").mkdir()
    (folder / "export" / "README.md").write_text("a card")
    assert words in refused(folder, out=tmp_path / "out")
