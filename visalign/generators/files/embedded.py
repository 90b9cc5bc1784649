"""The models that visalign brings along, by name."""

from pathlib import Path

MODEL_ASSETS = Path(__file__).resolve().parents[2] / "assets"
EMBEDDED_PROMPTS = {"tiny-sd3": "emoji", "tiny-sdxl": "emoji", "tiny-wan": "videos", "tiny-edit": "emoji-edits"}
"""By the name of an embedded model, the set of prompts that it was trained on, of which a part was held out."""
EMBEDDED_MODELS = {name: MODEL_ASSETS / name for name in EMBEDDED_PROMPTS}
EMBEDDED_LORAS = {"tiny-sd3-aligned": "tiny-sd3"}
"""By the name of an embedded LoRA, the embedded model that it was trained on."""
