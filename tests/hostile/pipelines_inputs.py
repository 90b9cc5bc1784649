"""Checkpoints and sizes: folders with something changed, single files of another kind, shapes no model makes."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

from tests.hostile.case import Case

ASSETS = Path(__file__).resolve().parents[2] / "visalign" / "assets"
GENERATE = "generate m 'red apple' --samples-per-prompt 1 --steps 1 --precision fp32 -o out"
FINE = ("out/samples.jsonl",)


def model(name: str, changes: dict[str, dict] = {}, without: tuple[str, ...] = (),  # noqa: B006
          renamed: Callable[[str], str] = str, more: dict[str, bytes] = {}) -> Callable[[Path], None]:  # noqa: B006
    """Lays out `m`, an embedded model: settings changed in JSON files ({file: {key: value}}, None takes a key away, a
    file that is not there is made), files left out that lie under `without`, weights renamed, files added."""
    def lay_out(folder: Path) -> None:
        for file in (ASSETS / name).rglob("*"):
            place = str(file.relative_to(ASSETS / name))
            if file.is_dir() or place.startswith(without):
                continue
            new = folder / "m" / (renamed(place) if file.suffix == ".safetensors" else place)
            new.parent.mkdir(parents=True, exist_ok=True)
            new.symlink_to(file)
        for place, values in changes.items():
            file = folder / "m" / place
            known = json.loads(file.read_text()) if file.exists() else {}
            file.unlink(missing_ok=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({key: value for key, value in (known | values).items() if value is not None}))
        for place, content in more.items():
            (folder / "m" / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / "m" / place).write_bytes(content)

    return lay_out


def header(*names: str, **metadata: str) -> bytes:
    """A .safetensors file whose tensors are single zeros."""
    entries = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)}
    text = json.dumps(entries | ({"__metadata__": metadata} if metadata else {})).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * len(names))


def scheduler(name: str, **settings) -> Callable[[Path], None]:
    """tiny-sdxl with this scheduler alone."""
    return model("tiny-sdxl", {"model_index.json": {"scheduler": ["diffusers", name]},
                               "scheduler/scheduler_config.json": {"_class_name": name} | settings},
                 without=("scheduler/",))


def single(base: str) -> str:
    return f"generate mine.safetensors 'red apple' --samples-per-prompt 1 --steps 1 --set base={base} -o out"


RECIPE = ("model: {source: m}\ndata: {path: pairs.jsonl}\nobjective: {name: diffusion_dpo, beta: 200}\n"
          "output: {folder: run, trackers: []}\n")


def recipe(given: Callable[[Path], None], text: str = RECIPE) -> Callable[[Path], None]:
    def lay_out(folder: Path) -> None:
        given(folder)
        (folder / "r.yaml").write_text(text)

    return lay_out


CASES = [
    # schedulers
    Case("edm-euler", GENERATE, ("m", "EDMEulerScheduler", "not trained as a diffusion"),
         given=scheduler("EDMEulerScheduler", sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)),
    Case("edm-dpm", GENERATE, ("EDMDPMSolverMultistepScheduler", "v_prediction"),
         given=scheduler("EDMDPMSolverMultistepScheduler", sigma_data=0.5)),
    Case("edm-before-data-is-read", "train r.yaml", ("EDMEulerScheduler",), lacks=("pairs.jsonl",),
         given=recipe(scheduler("EDMEulerScheduler"))),
    Case("edm-dry-run", "train r.yaml --dry-run", ("EDMEulerScheduler",), given=recipe(scheduler("EDMEulerScheduler"))),
    Case("flow-scheduler-for-sdxl", GENERATE, ("FlowMatchEulerDiscreteScheduler", "betas"),
         given=scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0)),
    Case("predicts-the-sample", GENERATE, ("prediction_type 'sample'", "DDIMScheduler", "v_prediction"),
         given=scheduler("DDIMScheduler", prediction_type="sample")),
    Case("flow-sigmas", GENERATE, ("UniPCMultistepScheduler", "flow_prediction"),
         given=scheduler("UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True)),
    Case("continuous-times", GENERATE, ("EulerDiscreteScheduler", "timestep_type continuous"),
         given=scheduler("EulerDiscreteScheduler", prediction_type="v_prediction", timestep_type="continuous")),
    Case("zero-snr-with-epsilon", GENERATE, ("rescale_betas_zero_snr", "epsilon"),
         given=scheduler("DDIMScheduler", beta_schedule="scaled_linear", rescale_betas_zero_snr=True)),
    Case("no-such-scheduler", GENERATE, ("MyScheduler", "diffusers"), given=scheduler("MyScheduler")),
    Case("two-names", GENERATE, ("EDMEulerScheduler",),
         given=model("tiny-sdxl", {"scheduler/scheduler_config.json": {"_class_name": "EDMEulerScheduler"}})),
    Case("diffusion-scheduler-for-sd3", GENERATE, ("EulerDiscreteScheduler", "rectified flow"),
         given=model("tiny-sd3", {"model_index.json": {"scheduler": ["diffusers", "EulerDiscreteScheduler"]},
                                  "scheduler/scheduler_config.json": {"_class_name": "EulerDiscreteScheduler"}})),
    Case("flow-upside-down", GENERATE, ("invert_sigmas True",),
         given=model("tiny-sd3", {"scheduler/scheduler_config.json": {"invert_sigmas": True}})),
    Case("karras-sampling", GENERATE, succeeds=True, writes=FINE,
         given=scheduler("DPMSolverMultistepScheduler", beta_start=0.00085, beta_end=0.012,
                         beta_schedule="scaled_linear", use_karras_sigmas=True)),
    # folders
    Case("fp16-files", GENERATE, succeeds=True, writes=FINE,
         given=model("tiny-sdxl", renamed=lambda name: name.replace(".safetensors", ".fp16.safetensors"))),
    Case("fp16-denoiser-only", GENERATE, succeeds=True, writes=FINE, given=model(
        "tiny-sdxl", renamed=lambda name: name.replace(".safetensors", ".fp16.safetensors") if "unet" in name else name,
        more={"unet/LICENSE": b"free"})),
    Case("sd3-without-t5", GENERATE, ("text_encoder_3", "without"), succeeds=True, writes=FINE,
         given=model("tiny-sd3", {"model_index.json": {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}},
                     without=("text_encoder_3/", "tokenizer_3/"))),
    Case("sd3-t5-folder-deleted", GENERATE, ("text_encoder_3",), succeeds=True, writes=FINE,
         given=model("tiny-sd3", without=("text_encoder_3/", "tokenizer_3/"))),
    Case("text-encoder-missing", GENERATE, ("the part text_encoder,", "incomplete"),
         given=model("tiny-sdxl", without=("text_encoder/",))),
    Case("vae-missing", GENERATE, ("the part vae,",), given=model("tiny-sdxl", without=("vae/",))),
    Case("scheduler-missing", GENERATE, ("the part scheduler,",), given=model("tiny-sdxl", without=("scheduler/",))),
    Case("vae-pickled", GENERATE, ("vae", "pickled"), given=model("tiny-sdxl", without=("vae/diff",),
                                                                  more={"vae/diffusion_pytorch_model.bin": b"x"})),
    Case("index-no-json", GENERATE, ("model_index.json", "JSON"),
         given=model("tiny-sdxl", without=("model_index",), more={"model_index.json": b"{"})),
    Case("index-a-list", GENERATE, ("model_index.json", "mapping"),
         given=model("tiny-sdxl", without=("model_index",), more={"model_index.json": b"[1]"})),
    Case("index-in-utf-16", GENERATE, ("model_index.json", "JSON"), given=model(
        "tiny-sdxl", without=("model_index",),
        more={"model_index.json": (ASSETS / "tiny-sdxl" / "model_index.json").read_text().encode("utf-16")})),
    Case("unet-of-unknown-class", GENERATE, ("MyUNet", "unet"),
         given=model("tiny-sdxl", {"model_index.json": {"unet": ["diffusers", "MyUNet"]}})),
    Case("unet-of-unknown-library", GENERATE, ("mylib.MyUNet",),
         given=model("tiny-sdxl", {"model_index.json": {"unet": ["mylib", "MyUNet"]}})),
    Case("config-broken", GENERATE, ("m", "could not be loaded"),
         given=model("tiny-sdxl", without=("unet/config",), more={"unet/config.json": b"{"})),
    Case("size-as-list", GENERATE, succeeds=True, writes=FINE,
         given=model("tiny-sdxl", {"unet/config.json": {"sample_size": [16, 16]}})),
    Case("size-unknown", GENERATE, ("model.resolution", "set it"),
         given=model("tiny-sdxl", {"unet/config.json": {"sample_size": None}})),
    # single files
    Case("sd15-file-sdxl-base", single("tiny-sdxl"), ("mine.safetensors", "StableDiffusionPipeline", "model.base"),
         given={"mine.safetensors": header("model.diffusion_model.input_blocks.0.0.weight")}),
    Case("flux-file-sd3-base", single("tiny-sd3"), ("FluxPipeline", "model.base"),
         given={"mine.safetensors": header("double_blocks.0.img_attn.qkv.weight")}),
    Case("lora-as-model", single("tiny-sdxl"), ("is a LoRA",),
         given={"mine.safetensors": header("lora_unet_mid.lora_down.weight", "lora_unet_mid.lora_up.weight")}),
    Case("vae-as-model", single("tiny-sdxl"), ("mine.safetensors", "is a VAE", "model.parts.vae"),
         given={"mine.safetensors": header("encoder.conv_in.weight", "decoder.conv_in.weight")}),
    Case("no-tensor", single("tiny-sdxl"), ("mine.safetensors", "supported family"),
         given={"mine.safetensors": header()}),
    Case("edm-file", single("tiny-sdxl"), ("edm_mean", "EDM"),
         given={"mine.safetensors": header("label_emb.0.0.weight", "edm_mean", "edm_std")}),
    Case("refiner", single("tiny-sdxl"), ("refiner",),
         given={"mine.safetensors": header("label_emb.0.0.weight", "conditioner.embedders.0.model.ln_final.weight")}),
    Case("web-page-as-file", single("tiny-sdxl"), ("mine.safetensors", "web page"),
         given={"mine.safetensors": b"<!DOCTYPE html><html>sign in</html>"}),
    Case("file-without-base", "generate mine.safetensors 'x' -o out", ("model.base",),
         given={"mine.safetensors": header("label_emb.0.0.weight")}),
    # sizes
    *(Case(f"resolution-{size}-{name}", f"generate {{{name}}} 'x' --steps 1 --set resolution={size} -o out",
           ("model.resolution", "multiple of"))
      for name, size in (("sdxl", 60), ("sd15", 63), ("flux", 30), ("sd3", "[16,18]"), ("wan", 40),
                         ("cogvideox", 20))),
    Case("resolution-beyond-positions", "generate {sd3} 'x' --set resolution=1024 -o out", ("positions", "32 pixels")),
    Case("frames-of-images", "generate {sdxl} 'x' --set frames=9 -o out", ("model.frames", "images")),
    Case("rate-of-images", "generate {sd3} 'x' --set fps=8 -o out", ("model.fps", "images")),
    Case("frames-10", "generate tiny-wan 'x' --set frames=10 -o out", ("model.frames 10", "9 or 11")),
    Case("t5-beyond-sd3", "generate {sd3} 'x' --set prompt_tokens=1024 -o out", ("tokens is 1024", "at most 512")),
    Case("t5-beyond-flux", "generate {flux} 'x' --set prompt_tokens=513 -o out", ("tokens is 513", "at most 512")),
    Case("t5-beyond-cogvideox", "generate {cogvideox} 'x' --set prompt_tokens=226 -o out", ("prompt_tokens 226", "8")),
    # prompts
    Case("long-prompt", f"generate {{sdxl}} '{'red apple and ' * 60}' --samples-per-prompt 1 --steps 1 "
         "--set resolution=16 -o out",
         ("1 of 1 prompts", "tokens", "cut off"), succeeds=True, writes=FINE),
]
