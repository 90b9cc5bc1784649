"""From a located model's files to a diffusers pipeline that holds its weights."""

import torch
from torch import nn

from visalign.generators.completeness import check_part, check_words, tell_what_is_beside
from visalign.generators.locating import ModelLocation
from visalign.generators.parts import left_out, networks_of, parts_of, variant_of
from visalign.generators.scheduler_files import load_scheduler
from visalign.generators.single_file import PREDICTION_MARKS
from visalign.storage.weights import read_tensors


def load_pipeline(pipeline_class, checkpoint: ModelLocation, dtype: torch.dtype):
    index, dtypes = checkpoint.index(), {"vae": torch.float32, "default": dtype}
    given = left_out(index, checkpoint.local, checkpoint.family) | {"scheduler": load_scheduler(checkpoint)}
    models = {name: kind for name, kind in networks_of(index).items() if name not in given}

    def of_folder(name: str) -> nn.Module:
        variant = variant_of(checkpoint.local / name) if checkpoint.local else None
        return models[name].from_pretrained(checkpoint.folder, subfolder=name, variant=variant, use_safetensors=True,
                                            torch_dtype=dtypes.get(name, dtype))

    file, denoiser = checkpoint.file, checkpoint.family.denoiser_name
    texts = {name for name in models if name.startswith("text_encoder") and
             file and file.has_text(name, models[name].__name__)}
    of_file = {denoiser, *(["vae"] if file.has_vae else [])} if file else set()
    if checkpoint.local:
        check_words(checkpoint.local, parts_of(index).keys() - given.keys())
        for name in models.keys() - of_file - texts:
            check_part(models[name], checkpoint.local / name, variant_of(checkpoint.local / name))
    if file is None:
        given |= {name: of_folder(name) for name in models}
        return pipeline_class.from_pretrained(checkpoint.folder, use_safetensors=True, **given)
    weights = {name: tensor for name, tensor in read_tensors(file.path, f"model {file.path}").items()
               if name not in PREDICTION_MARKS}
    for name in of_file:
        given[name] = models[name].from_single_file(dict(weights), config=checkpoint.folder, subfolder=name,
                                                    torch_dtype=dtypes.get(name, dtype))
    tell_what_is_beside(file.path, given[denoiser])
    given |= {name: of_folder(name) for name in models.keys() - given.keys() - texts}
    if not texts:
        return pipeline_class.from_pretrained(checkpoint.folder, use_safetensors=True, **given)
    return pipeline_class.from_single_file(str(file.path), config=checkpoint.folder, torch_dtype=dtype, **given)
