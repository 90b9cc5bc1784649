"""Shipped recipes by what they learn from, for sentences that refuse other data; `visalign advise` knows more."""

FITTING: dict[str, tuple[str, ...]] = {
    "pairs": ("sdxl_dpo", "sd3_flow_dpo"),
    "thumbs": ("sd15_kto",),
    "images": ("sft_folder", "sd3_soar"),
    "rewards": ("sd3_flow_rwr",),
    "users": ("sdxl_ppd",),
    "photographs": ("sd21_rpo",),
    "prompts": ("online/sdxl_ddpo", "online/sd35_flow_grpo"),
}
"""By kind of data. Where there are two, the second is for flow models."""

SIBLINGS = {"diffusion_dpo": "flow_dpo", "inpo": "flow_inpo"}
SIBLINGS |= {flow: diffusion for diffusion, flow in SIBLINGS.items()}
"""The same method on models of the other process, by objective."""

RECIPE_OF = {"diffusion_dpo": "sdxl_dpo", "flow_dpo": "sd3_flow_dpo", "inpo": "sdxl_inpo", "flow_inpo": "tiny_inpo",
             "flow_rwr": "sd3_flow_rwr", "mapo": "sdxl_mapo", "diffusion_kto": "sd15_kto", "sft": "sft_folder",
             "soar": "sd3_soar", "seppo": "sd15_seppo", "rpo_subject": "sd21_rpo"}
"""The recipe that shows an objective."""


def recipes_for(kind: str) -> str:
    """The recipes that learn from data of a kind, in words."""
    first, *flow = FITTING[kind]
    return f"the recipe {first}" + "".join(f" (flow models: {name})" for name in flow)
