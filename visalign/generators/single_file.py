"""What the header of a single .safetensors file says: its family, its parts, its kind of prediction."""

from dataclasses import dataclass
from pathlib import Path

from visalign.errors import UserError
from visalign.storage.weights import read_metadata, read_shapes

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
_VAE = ("first_stage_model.", "vae.")
_TEXT = ("cond_stage_model.", "conditioner.", "text_encoders.")
_TEXT_PARTS = {
    "text_encoder": ("cond_stage_model.transformer.text_model.", "cond_stage_model.model.",
                     "conditioner.embedders.0.transformer.text_model.", "text_encoders.clip_l.transformer.text_model."),
    "text_encoder_2": ("conditioner.embedders.1.model.", "text_encoders.clip_g.transformer.text_model."),
    "T5": ("text_encoders.t5xxl.transformer.",),
}
PREDICTION_MARKS = ("v_pred", "ztsnr")
"""Empty tensors that mark a file as predicting v, and as noised to zero signal."""
_EDM = ("edm_mean", "edm_std", "edm_vpred.")


@dataclass(frozen=True)
class SingleFile:
    """names: of its tensors. metadata: of its header."""

    path: Path
    names: frozenset[str]
    metadata: dict[str, str]

    def has(self, *beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in self.names)

    @property
    def has_vae(self) -> bool:
        return self.has(*_VAE)

    def has_text(self, part: str, kind: str) -> bool:
        """Whether it holds the text encoder for this part of a pipeline, of this class."""
        return self.has(*_TEXT_PARTS["T5" if kind.startswith(("T5", "UMT5")) else part])

    def refuse_lora(self) -> None:
        """Raise UserError for a LoRA."""
        if any(mark in name for name in self.names for mark in _LORA):
            raise UserError(f"model {self.path}: is a LoRA, not a model; give the model it was made for, and the LoRA "
                            "beside it (generate --lora, compare MODEL+LORA)")

    def fits(self, pipeline_class: str, base: str) -> None:
        """Raise UserError unless its denoiser is of this pipeline's family."""
        bare = frozenset(name.removeprefix(DENOISER) for name in self.names)
        found = next((kinds for kinds, marks in _MARKS
                      if all(any(name.startswith(mark) for name in bare) for mark in marks)), None)
        if found is None:
            example = min(self.names, default="nothing")
            raise UserError(f"model {self.path}: its tensors, such as {example}, are not those of a model of any "
                            "supported family")
        if pipeline_class not in found:
            raise UserError(f"model {self.path}: holds a {found[0]}'s denoiser, but model.base {base} is a "
                            f"{pipeline_class}; name a base of the file's own family")
        known = {beginning for beginnings in _TEXT_PARTS.values() for beginning in beginnings}
        if self.has(*_TEXT) and not self.has(*known):
            example = next(name for name in sorted(self.names) if name.startswith(_TEXT))
            raise UserError(f"model {self.path}: its text encoder's tensors, such as {example}, are named in no known "
                            "way (an SDXL refiner is not supported)")

    def noise_settings(self) -> dict:
        """Its noise and prediction, as scheduler settings; {} where the file does not state them.

        Raises UserError for a file marked as trained the EDM way.
        """
        marks = sorted(name for name in self.names if name.startswith(_EDM))
        if marks:
            raise UserError(f"model {self.path}: its tensors {', '.join(marks[:2])} say that it was trained the EDM "
                            "way (as Playground 2.5 and CosXL), which is not supported; supported are epsilon and "
                            "v_prediction")
        stated = {"v": "v_prediction", "epsilon": "epsilon"}.get(self.metadata.get("modelspec.prediction_type"))
        settings = {} if stated is None else {"prediction_type": stated}
        if "v_pred" in self.names:
            settings["prediction_type"] = "v_prediction"
        if "ztsnr" in self.names or self.metadata.get("ss_zero_terminal_snr") == "True":
            settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return settings


def read_single_file(path: Path) -> SingleFile:
    """Read the header. Raises UserError when the file is missing or not a .safetensors file."""
    return SingleFile(path, frozenset(read_shapes(path, f"model {path}")), read_metadata(path, f"model {path}"))
