"""Parts given apart, packed files, files in several pieces, and what of a hub repository is downloaded."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.generators.files.original_files import clip_tensors, sd3_tensors, unet_tensors, vae_tensors
from tests.tiny.parts import image_vae
from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import load_generator, locate_model
from visalign.generators.files.file_parts import filled
from visalign.generators.files.lazy_tensors import lazy
from visalign.generators.files.locating import fetched
from visalign.generators.files.sketching import sketch
from visalign.storage.tensor_files import TensorFiles


def load(source, **settings):
    return load_generator(ModelSettings(source=str(source), precision="fp32", **settings), "cpu")


def sketched(source, **settings):
    settings = ModelSettings(source=str(source), **settings)
    return sketch(locate_model(settings), settings)


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def written(path, tensors, **options):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, **options)
    return path


def without_weights(folder, target):
    return shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))


def test_a_whole_sd3_file_equals_its_folder(pipelines, tmp_path):
    pipeline = load(pipelines("sd3")).pipeline
    with torch.no_grad():  # as the authors' own code has it
        pipeline.text_encoder.text_projection.weight.copy_(torch.eye(16))
    tensors = sd3_tensors(pipeline.transformer) | vae_tensors(pipeline.vae)
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        tensors |= clip_tensors(getattr(pipeline, part), f"text_encoders.{name}.transformer.")
    file = written(tmp_path / "sd3.safetensors", tensors)
    base = without_weights(pipelines("sd3"), tmp_path / "layout")
    found = load(file, base=str(base))
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        assert same(getattr(found.pipeline, part), getattr(pipeline, part)), part
    assert found.pipeline.text_encoder_3 is None and found.pipeline.tokenizer_3 is None
    t5 = pipeline.text_encoder_3.state_dict()
    with_t5 = load(file, base=str(base), parts={"text_encoder_3": str(written(tmp_path / "t5.safetensors", {
        "shared.weight": t5["shared.weight"]} | {k: v for k, v in t5.items() if "embed_tokens" not in k}))})
    assert same(with_t5.pipeline.text_encoder_3, pipeline.text_encoder_3)


def test_parts_given_apart_take_the_place_of_the_models(pipelines, tmp_path):
    vae, unet = image_vae(), load(pipelines("sdxl")).denoiser
    with torch.no_grad():
        unet.conv_in.weight.mul_(2)
    file = written(tmp_path / "vae.safetensors", {
        name.removeprefix("first_stage_model."): tensor for name, tensor in vae_tensors(vae).items()})
    vae.save_pretrained(tmp_path / "vae")
    unet_file = written(tmp_path / "unet.safetensors", unet_tensors(unet) | {"v_pred": torch.tensor([])})
    for given in (file, tmp_path / "vae"):
        found = load(pipelines("sdxl"), parts={"vae": str(given), "unet": str(unet_file)})
        assert same(found.pipeline.vae, vae) and same(found.denoiser, unet)
        assert found.process.prediction_type == "v_prediction"  # as the U-Net's file says
    assert load(pipelines("sdxl"), parts={"unet": str(unet_file)}, prediction="epsilon").process.prediction_type == \
        "epsilon"


def test_parts_that_do_not_belong_are_one_sentence(pipelines, tmp_path):
    image_vae(scaling_factor=0.5).save_pretrained(tmp_path / "other")
    image_vae(latent_channels=8).save_pretrained(tmp_path / "wide")
    unet = pipelines("sd15") / "unet" / "diffusion_pytorch_model.safetensors"
    for parts, words in (
            ({"vea": "x"}, "has no part vea .*did you mean 'vae'"), ({"vae": str(tmp_path / "none")}, "no such file"),
            ({"vae": str(pipelines("sdxl") / "unet")}, "holds a UNet2DConditionModel, and a AutoencoderKL"),
            ({"vae": str(tmp_path / "wide")}, "of another size"), ({"vae": str(tmp_path / "other")}, "scaling_factor"),
            ({"tokenizer": str(pipelines("sdxl") / "unet")}, "has no tokenizer"),
            ({"unet": str(unet)}, "StableDiffusionXLPipeline")):
        with pytest.raises(UserError, match=words):
            sketched(pipelines("sdxl"), parts=parts)
    with pytest.raises(UserError, match="without vae: .* cannot run without it"):
        sketched(pipelines("sdxl"), without=("vae",))
    with pytest.raises(UserError, match="is a flow"):
        sketched(pipelines("sd3"), prediction="epsilon")
    assert "text_encoder_3" not in sketched(pipelines("sd3"), without=("text_encoder_3",)).prompt_encoders()


def test_a_file_in_pieces_is_read_whole_from_any_of_them(pipelines, tmp_path):
    tensors = load_file(pipelines("sd15") / "unet" / "diffusion_pytorch_model.safetensors")
    names = sorted(tensors)
    for number, some in ((1, names[:10]), (2, names[10:])):
        written(tmp_path / f"x-0000{number}-of-00002.safetensors", {name: tensors[name] for name in some})
    (tmp_path / "x.safetensors.index.json").write_text(json.dumps({"weight_map": {
        name: f"x-0000{1 if name in names[:10] else 2}-of-00002.safetensors" for name in names}}))
    for given in ("x-00001-of-00002.safetensors", "x.safetensors.index.json"):
        assert sketched(tmp_path / given, base=str(pipelines("sd15"))).denoiser is not None
    assert torch.equal(load(tmp_path / given, base=str(pipelines("sd15"))).denoiser.conv_in.weight,
                       tensors["conv_in.weight"])
    (tmp_path / "x-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="2 files, of which 1 are missing: x-00002"):
        sketched(tmp_path / "x-00001-of-00002.safetensors", base=str(pipelines("sd15")))


def test_of_a_hub_repository_one_variant_is_downloaded(pipelines, tmp_path, monkeypatch):
    folder, asked = shutil.copytree(pipelines("sd3"), tmp_path / "hub"), []
    for file in [*folder.rglob("*.safetensors")]:
        file.rename(file.with_suffix(".fp16.safetensors"))
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors",
                folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "vae" / "diffusion_pytorch_model.bin").touch()
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]

    def snapshot(repository, allow_patterns):
        asked.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda self, repository, timeout: SimpleNamespace(
        siblings=[SimpleNamespace(rfilename=name) for name in names]))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("visalign.generators.files.locating.hub_file", lambda repository, name: folder / name)
    found = fetched(locate_model(ModelSettings(source="someone/something", without=("text_encoder_3",))))
    assert found.folder == str(folder)
    weights = {name for name in asked if name.endswith((".safetensors", ".bin"))}
    assert weights == {"vae/diffusion_pytorch_model.safetensors", "text_encoder/model.fp16.safetensors",
                       "text_encoder_2/model.fp16.safetensors",
                       "transformer/diffusion_pytorch_model.fp16.safetensors"}
    assert {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"} <= set(asked)
    assert not any(name.startswith(("text_encoder_3", "tokenizer_3")) for name in asked)


def memory(kind):
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(kind)).split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="memory is asked of /proc")
def test_memory_holds_a_network_once_while_it_is_filled(tmp_path):
    path = written(tmp_path / "large.safetensors", {
        f"{number}.weight": torch.full((3072, 1024), number, dtype=torch.float16) for number in range(32)})
    file = TensorFiles([path], "file")
    with torch.device("meta"):
        network = torch.nn.ModuleList([torch.nn.Linear(1024, 3072, bias=False) for _ in file.shapes])
    blocks = {name: lazy(name, shape).chunk(3) for name, shape in file.shapes.items()}
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    filled(network, {name: torch.cat([q, k, v]) for name, (q, k, v) in blocks.items()}, file.read,
           torch.bfloat16)
    assert network[7].weight.dtype == torch.bfloat16 and network[7].weight[0, 0] == 7
    assert path.stat().st_size > 200e6 and memory("VmHWM") - before < 1.15 * path.stat().st_size
