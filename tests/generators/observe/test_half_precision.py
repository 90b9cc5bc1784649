"""On a card a pipeline computes in half precision; its conventions are the same."""

import pytest
import torch

from tests.families import TINY, load_tiny
from visalign.generators import FAMILIES
from visalign.generators.shape import Shape


@pytest.mark.parametrize("name", ["sdxl", "sd3", "ltx", "z_image", "qwen_image"])
def test_conventions_are_those_of_single_precision(pipelines, name):
    import diffusers

    exact, tiny = load_tiny(pipelines(name), name), TINY[name]
    family = FAMILIES[tiny.family]
    pipeline = getattr(diffusers, tiny.family).from_pretrained(pipelines(name), torch_dtype=torch.bfloat16)
    pipeline.vae.float()
    coarse = family(pipeline, device=torch.device("cpu"), compute_dtype=torch.bfloat16,
                    shape=Shape(*exact.shape.size, exact.shape.frames, exact.shape.fps),
                    prompt_tokens=exact.prompt_tokens, call=tiny.settings.get("call"))
    coarse.observe()
    one, other = coarse.conventions, exact.conventions
    assert one.shape == other.shape and one.guidance == other.guidance and one.latents == other.latents
    x = torch.randn(2, *one.shape)
    assert torch.equal(one.to_network(x), other.to_network(x)) and torch.equal(one.to_rule(x), other.to_rule(x))
    assert {path: (rule.offset, rule.slope) for path, rule in one.times.items()} == \
        {path: (rule.offset, rule.slope) for path, rule in other.times.items()}
    torch.testing.assert_close(one.vae.to_vae(x), other.vae.to_vae(x), atol=2e-2, rtol=2e-2)
