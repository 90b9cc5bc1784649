"""Which open_clip model a source means, and what its configuration says; open_clip itself is imported when asked."""

from pathlib import Path
from typing import Any

from visalign.errors import UserError
from visalign.storage.hub_files import hub_file, hub_reason
from visalign.storage.weights import read_json

CLIP_ASSETS = Path(__file__).resolve().parents[1] / "assets"
EMBEDDED_CLIPS = {"tiny-clip": CLIP_ASSETS / "tiny-clip"}


def model_name(source: str | Path) -> tuple[str, str | None]:
    """open_clip's own (model name, pretrained tag) for a source.

    source: an embedded model, a local folder with `open_clip_config.json`, `ARCHITECTURE/TAG` such as
    `ViT-L-14/openai`, or a hub id such as `laion/CLIP-ViT-H-14-laion2B-s32B-b79K`.
    """
    import open_clip

    text = str(EMBEDDED_CLIPS.get(str(source), source))
    folder = Path(text).expanduser()
    if folder.is_dir():
        return f"local-dir:{folder}", None
    architecture, _, tag = text.partition("/")
    if architecture in open_clip.list_models():
        return architecture, tag or None
    return f"hf-hub:{text.removeprefix('hf-hub:')}", None


def model_settings(source: str | Path, where: str) -> dict[str, Any]:
    """The configuration of an open_clip model: embed_dim, vision_cfg, text_cfg ...; empty where it names none.

    Raises UserError, starting with `where`, for one that is neither here nor given by the hub.
    """
    import open_clip

    name, _ = model_name(source)
    kind, _, rest = name.partition(":")
    if kind == "local-dir":
        return read_json(Path(rest) / "open_clip_config.json", f"{where}: {source}").get("model_cfg", {})
    if kind == "hf-hub":
        try:
            file = hub_file(rest, "open_clip_config.json")
        except Exception as error:  # the hub raises many kinds of errors; to the user all mean the same
            raise UserError(f"{where}: {source} is no open_clip folder, nor ARCHITECTURE/TAG as in ViT-L-14/openai, "
                            f"and the hub did not give its configuration ({hub_reason(error)})") from error
        return read_json(file, f"{where}: {source}").get("model_cfg", {})
    return open_clip.get_model_config(name) or {}


def embedding_width(source: str | Path, where: str) -> int:
    """Numbers in an embedding of an image, from the configuration alone.

    Raises UserError as `model_settings` does.
    """
    settings = model_settings(source, where)
    if not isinstance(settings.get("embed_dim"), int):
        raise UserError(f"{where}: the configuration of {source} names no embed_dim")
    return settings["embed_dim"]
