"""The KL of sampling paths."""

import contextlib

import numpy as np
import pytest
import torch

from visalign.config import ModelSettings
from visalign.evaluation.path_kl import path_kl
from visalign.generators import load_generator
from visalign.processes import Flow
from visalign.processes.steps import sensitivity


class Constant:
    """A generator whose policy predicts `offset` more than its reference, whatever it sees."""

    device = "cpu"

    def __init__(self, offset: float):
        self.offset, self.process, self.frozen = offset, Flow(), False

    def latent_shape(self):
        return (2, 3, 3)

    def schedule(self, steps):
        return torch.linspace(0.9, 0.0, steps + 1)

    def encode_prompts(self, prompts):
        return {}

    def predict(self, x, t, conditioning, guidance=None):
        return torch.full_like(x, 0.0 if self.frozen else self.offset)

    @contextlib.contextmanager
    def reference(self):
        self.frozen = True
        yield
        self.frozen = False


def test_a_constant_difference_by_hand():
    # each step: d (slope x offset)^2 / (2 std^2), the slope being the step's sensitivity; the last step is left out
    process, steps = Flow(), 4
    times, expected = torch.linspace(0.9, 0.0, steps + 1), 0.0
    for j in range(steps - 1):
        t, t_next = times[j:j + 1], times[j + 1:j + 2]
        nothing = torch.zeros(1, 18)
        std = process.moments(nothing, nothing, t, t_next, *process.STOCHASTIC).std.item()
        slope = sensitivity(process, nothing, t, t_next, *process.STOCHASTIC).item()
        expected += 18 * (0.3 * slope) ** 2 / (2 * std**2)
    found = path_kl(Constant(0.3), ["a", "b"], seeds=2, steps=steps)
    assert found == pytest.approx([expected, expected], rel=1e-4) and expected > 0
    assert path_kl(Constant(0.6), ["a"], steps=steps)[0] == pytest.approx(4 * expected, rel=1e-4)
    assert path_kl(Constant(0.0), ["a"], steps=steps)[0] == 0


@pytest.mark.parametrize("family, guidance", [("sd3", 1.0), ("sd15", 1.0), ("sd3", 3.0)])
def test_it_is_zero_at_the_reference_and_grows_with_the_weights(family, guidance, pipelines):
    generator = load_generator(ModelSettings(source=str(pipelines(family)), precision="fp32", prompt_tokens=8,
                                             resolution=16))
    parameters = generator.make_trainable("lora", rank=2)
    settings = {"seeds": 2, "steps": 4, "guidance_scale": guidance}
    assert (path_kl(generator, ["a red fruit", "a cat face"], **settings) == 0).all()
    found = []
    for size in (0.02, 0.1):
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        found.append(path_kl(generator, ["a red fruit", "a cat face"], **settings))
    assert np.isfinite(found).all() and (found[1] > found[0]).all() and (found[0] > 0).all()
