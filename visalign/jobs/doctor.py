"""`visalign doctor`: what is installed, what works, and the command that fixes what does not."""

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version

from visalign import __version__

PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "open_clip_torch", "gradio",
            "datasets", "safetensors", "pyarrow", "av", "httpx")
OPTIONAL = {"xformers": "xformers", "gguf": "gguf", "bitsandbytes": None, "rapidocr": "ocr", "trl": "language",
            "wandb": "trackers", "mlflow": "trackers", "prometheus_client": "serve"}


def diagnose() -> tuple[list[str], bool]:
    """Lines to print and whether everything needed works."""
    lines, healthy = [f"visalign {__version__}"], True
    for name in PACKAGES:
        try:
            lines.append(f"  {name:16} {version(name)}")
        except PackageNotFoundError:
            healthy = False
            lines.append(f"  {name:16} missing: pip install {name}")
    problem = broken_torchvision()
    if problem:
        return [*lines, problem], False
    lines += devices()
    lines.append("attention: native, math" + ("; flash" if _has_cuda() else "")
                 + ("; xformers" if importlib.util.find_spec("xformers") and _has_cuda() else ""))
    for name, extra in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            command = f"pip install 'visalign[{extra}]'" if extra else f"pip install {name}"
            lines.append(f"  optional {name:12} not installed: {command}")
    return lines, healthy


def broken_torchvision() -> str | None:
    """A torchvision built for another torch breaks half of diffusers at import, so it is reported first."""
    try:
        importlib.import_module("torchvision.ops")
    except (ImportError, RuntimeError) as error:
        return (f"torchvision does not match torch ({' '.join(str(error).split())[:80]}): install the pair named in "
                "constraints.txt, pip install -c constraints.txt --force-reinstall torch torchvision")
    return None


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def devices() -> list[str]:
    import torch

    from visalign.generators.hardware.devices import pick_device, pick_dtype

    device = pick_device()
    lines = [f"device: {device}, arithmetic {str(pick_dtype('auto', device)).removeprefix('torch.')}, "
             f"{torch.get_num_threads()} CPU threads"]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        lines.append(f"  cuda:{i} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return lines
