"""Parts of a pipeline that are given apart (`model.parts`): a file of weights, or a folder as diffusers saves it."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from visalign.errors import UserError, nearest
from visalign.generators.files.gguf_files import read_gguf_file
from visalign.generators.files.parts import networks_of, parts_of
from visalign.generators.files.single_file import SingleFile, read_single_file
from visalign.generators.files.wrong_models import is_weights, refuse_wrong_file
from visalign.storage.pretrained import check_tokenizer
from visalign.storage.weights import read_json

_MEANING = ("scaling_factor", "shift_factor")
"""Settings of a VAE without which its latents mean something else."""


def read_weights_file(path: Path, part: str | None = None) -> SingleFile:
    """The header of a .safetensors or .gguf file; part: the only one in it, None for a whole model or its denoiser."""
    return (read_gguf_file if path.suffix.lower() == ".gguf" else read_single_file)(path, part)


def given_parts(named: Mapping[str, str], index: dict, family) -> dict[str, SingleFile | Path]:
    """What `model.parts` names, opened.

    Raises UserError for parts that the pipeline has not, and for what is not the part that it is given for.
    """
    networks, found = networks_of(index), {}
    tokenizers = {name for name in parts_of(index) if name.startswith("tokenizer")}
    for name, given in named.items():
        path, where = Path(given).expanduser(), f"model.parts.{name} {given}"
        if name not in {*networks, *tokenizers}:
            raise UserError(f"model.parts: {family.pipeline_class} has no part {name} that can be given"
                            f"{nearest(name, {*networks, *tokenizers})}")
        refuse_wrong_file(path)
        if not path.exists():
            raise UserError(f"{where}: there is no such file or folder")
        if path.is_dir():
            path = path / name if (path / "model_index.json").is_file() else path
            _check_folder(path, where, networks.get(name))
            found[name] = path
        elif name in tokenizers or not is_weights(path):
            raise UserError(f"{where}: a folder with the files of a tokenizer is expected")
        elif path.suffix.lower() == ".gguf" and name != family.denoiser_name:
            raise UserError(f"{where}: only a model's {family.denoiser_name} is read from a GGUF file")
        else:
            found[name] = read_weights_file(path, name)
    return found


def _check_folder(path: Path, where: str, kind: type[nn.Module] | None) -> None:
    """Raise UserError unless a folder holds a tokenizer (kind None), or a network of this class."""
    if kind is None:
        return check_tokenizer(path, where)
    if not (path / "config.json").is_file():
        raise UserError(f"{where}: has no config.json, which says what its weights are of; give the file of weights "
                        "itself, or a folder as diffusers saves it")
    config = read_json(path / "config.json", where)
    of_diffusers = hasattr(kind, "load_config")
    said = str(config.get("_class_name" if of_diffusers else "model_type"))
    wanted = kind.__name__ if of_diffusers else kind.config_class.model_type
    if said != wanted and (of_diffusers or said.split("_")[0] != wanted.split("_")[0]):
        raise UserError(f"{where}: holds a {said}, and a {wanted} is needed there")


def check_alike(given: nn.Module, usual: nn.Module, where: str) -> None:
    """Raise UserError unless a part given as a folder has the widths of the one in whose place it stands."""
    mine, theirs = ({name: tuple(tensor.shape) for name, tensor in each.state_dict().items()}
                    for each in (given, usual))
    if mine != theirs:
        odd = min({name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)})
        raise UserError(f"{where}: is of another size than the model needs: {odd} is {mine.get(odd, 'absent')}, and "
                        f"{theirs.get(odd, 'absent')} is needed; it belongs to another family")
    for name in _MEANING if hasattr(given, "load_config") else ():
        if given.config.get(name) != usual.config.get(name):
            raise UserError(f"{where}: has {name} {given.config.get(name)}, and the model was trained with "
                            f"{usual.config.get(name)}; it is another family's")
