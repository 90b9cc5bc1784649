"""What the header of a single .safetensors file says: its family, its parts, its kind of prediction."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from visalign.errors import UserError
from visalign.storage.tensor_files import TensorFiles, with_other_shards
from visalign.storage.weights import read_metadata

DENOISER = "model.diffusion_model."
_MARKS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("StableDiffusionXLPipeline",), ("label_emb.",)),
    (("StableDiffusionXLPipeline",), ("add_embedding.", "down_blocks.")),
    (("StableDiffusionPipeline",), ("input_blocks.",)),
    (("StableDiffusionPipeline",), ("down_blocks.", "mid_block.", "conv_in.")),
    (("HunyuanVideoPipeline",), ("txt_in.individual_token_refiner.",)),
    (("HunyuanVideoPipeline",), ("context_embedder.token_refiner.",)),
    (("FluxPipeline",), ("double_blocks.",)),
    (("FluxPipeline",), ("single_transformer_blocks.",)),
    (("StableDiffusion3Pipeline",), ("joint_blocks.",)),
    (("StableDiffusion3Pipeline",), ("pos_embed.", "context_embedder.", "transformer_blocks.")),
    (("CogVideoXPipeline",), ("patch_embed.text_proj.",)),
    (("LTXPipeline",), ("patchify_proj.",)),
    (("LTXPipeline",), ("proj_in.", "caption_projection.", "transformer_blocks.")),
    (("WanPipeline", "WanImageToVideoPipeline"), ("patch_embedding.", "blocks.")),
)
"""Pipelines whose denoiser has tensors with these prefixes, in original and diffusers names, of any size."""
_LORA = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora.down.", ".lora.up.", ".hada_w1_a", ".lokr_w1")
_ALONE = {"vae": ("decoder.conv_in.", "decoder.up.", "decoder.up_blocks."), "text_encoder": (
    "text_model.", "transformer.resblocks.", "encoder.block.", "encoder.layers.", "shared.")}
"""By the name of a part, how tensors of a file begin that is this part alone."""
_VAE = ("first_stage_model.", "vae.")
_TEXT = ("cond_stage_model.", "conditioner.", "text_encoders.")
_TEXT_PARTS = {
    "text_encoder": ("cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders.0.transformer.",
                     "text_encoders.clip_l.transformer."),
    "text_encoder_2": ("conditioner.embedders.1.model.", "text_encoders.clip_g.transformer."),
    "T5": ("text_encoders.t5xxl.transformer.",),
}
PREDICTION_MARKS = ("v_pred", "ztsnr")
"""Empty tensors that mark a file as predicting v, and as noised to zero signal."""
_EDM = ("edm_mean", "edm_std", "edm_vpred.")
_ENDS = {"input_blocks.0.0.weight": "out.2.weight", "conv_in.weight": "conv_out.weight",
         "img_in.weight": "final_layer.linear.weight", "x_embedder.weight": "proj_out.weight"}
"""First and last layers of denoisers, which take and return as many channels where images are made from words alone."""
_OTHER_USES = {9: "fills in masked parts of an image (inpainting)", 8: "edits a given image (InstructPix2Pix)",
               5: "follows a depth map", 7: "enlarges a given image", 384: "fills in masked parts of an image",
               128: "follows a control image"}


@dataclass(frozen=True)
class SingleFile:
    """A model, or a part of one, in one file or in several that belong together. metadata: of the header.

    shapes: of its tensors, as the network has them. part: the only one that is in it, None for a whole model or its
    denoiser. quantised: whether its weights are packed.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    part: str | None = None
    quantised: bool = False

    @contextmanager
    def opened(self) -> Iterator[TensorFiles]:
        """The tensors of one that is not quantised. Raises UserError when it broke meanwhile."""
        tensors = _tensors_of(self.path)
        try:
            yield tensors
        finally:
            tensors.close()

    def where(self, part: str) -> str:
        """A part of it, for messages."""
        return f"model.parts.{part} {self.path}" if self.part else f"model {self.path}, its {part}"

    def has(self, *beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in self.shapes)

    def names_of(self, part: str, kind: str) -> tuple[str, list[str]]:
        """What stands before the names of a part's tensors, and the names; none for a part that is not in the file.

        kind: the class of the part.
        """
        beginnings = _VAE if part == "vae" else (DENOISER,) if part in ("unet", "transformer") else \
            _TEXT_PARTS.get("T5" if kind.startswith(("T5", "UMT5")) else part, ())
        prefix = next((each for each in beginnings if self.has(each)), None)
        if prefix is not None:
            return prefix, [name for name in self.shapes if name.startswith(prefix)]
        if self.part == part or (self.part is None and beginnings == (DENOISER,)):
            return "", [name for name in self.shapes if name not in PREDICTION_MARKS
                        and (self.part is not None or not name.startswith((*_VAE, *_TEXT)))]
        return "", []

    @cached_property
    def denoiser(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the denoiser's tensors, by bare names."""
        prefix, names = self.names_of(self.part or "transformer", "")
        return {name.removeprefix(prefix): self.shapes[name] for name in names}

    def pipelines(self) -> tuple[str, ...]:
        """The pipelines that its denoiser is of. Raises UserError for tensors of no known family."""
        found = next((kinds for kinds, marks in _MARKS
                      if all(any(name.startswith(mark) for name in self.denoiser) for mark in marks)), None)
        if found is None:
            example = min(self.shapes, default="nothing")
            raise UserError(f"model {self.path}: its tensors, such as {example}, are not those of a model of any "
                            "supported family")
        for first, last in _ENDS.items():
            taken, returned = (self.denoiser.get(first, ()) + (0, 0))[1], (self.denoiser.get(last, ()) + (0,))[0]
            if 0 < returned < taken:
                what = _OTHER_USES.get(taken, "needs more than words")
                raise UserError(f"model {self.path}: its denoiser takes {taken} channels and returns {returned}: it "
                                f"{what}, which is not supported")
        return found

    def check_whole(self) -> None:
        """Raise UserError for a LoRA and for a part of a model that is given as a model."""
        if any(mark in name for name in self.shapes for mark in _LORA):
            raise UserError(f"model {self.path}: is a LoRA, not a model; give the model it was made for, and the LoRA "
                            "beside it (generate --lora, compare MODEL+LORA)")
        part = next((part for part, beginnings in _ALONE.items() if self.has(*beginnings)), None)
        if part is not None:
            what = "a VAE" if part == "vae" else "a text encoder"
            raise UserError(f"model {self.path}: is {what} ({min(self.shapes)} and others), not a model; give the "
                            f"model, and this file as model.parts.{part}")
        self.pipelines()

    def fits(self, pipeline_class: str, base: str) -> None:
        """Raise UserError unless its denoiser is of this pipeline's family.

        base: the setting that names the pipeline, and its value.
        """
        found = self.pipelines()
        if pipeline_class not in found:
            raise UserError(f"model {self.path}: holds a {found[0]}'s denoiser, but {base} is a {pipeline_class}; name "
                            "one of the file's own family")
        known = {beginning for beginnings in _TEXT_PARTS.values() for beginning in beginnings}
        if self.has(*_TEXT) and not self.has(*known):
            example = next(name for name in sorted(self.shapes) if name.startswith(_TEXT))
            raise UserError(f"model {self.path}: its text encoder's tensors, such as {example}, are named in no known "
                            "way (an SDXL refiner is not supported)")

    def noise_settings(self) -> dict:
        """Its noise and prediction, as scheduler settings; {} where the file does not state them.

        Raises UserError for a file marked as trained the EDM way.
        """
        marks = sorted(name for name in self.shapes if name.startswith(_EDM))
        if marks:
            raise UserError(f"model {self.path}: its tensors {', '.join(marks[:2])} say that it was trained the EDM "
                            "way (as Playground 2.5 and CosXL), which is not supported; supported are epsilon and "
                            "v_prediction")
        stated = {"v": "v_prediction", "epsilon": "epsilon"}.get(self.metadata.get("modelspec.prediction_type"))
        settings = {} if stated is None else {"prediction_type": stated}
        if "v_pred" in self.shapes:
            settings["prediction_type"] = "v_prediction"
        if "ztsnr" in self.shapes or self.metadata.get("ss_zero_terminal_snr") == "True":
            settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return settings


def read_single_file(path: Path, part: str | None = None) -> SingleFile:
    """Read the header, and those of the files beside it that belong to the same model.

    Raises UserError when one is missing or is not a .safetensors file.
    """
    tensors = _tensors_of(path)
    return SingleFile(path, tensors.shapes, read_metadata(tensors.paths[0], tensors.where), part)


def _tensors_of(path: Path) -> TensorFiles:
    where = f"model {path}"
    return TensorFiles(with_other_shards(path, where), where)
