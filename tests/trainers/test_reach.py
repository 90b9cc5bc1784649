"""A run ends where gradients do not reach what is to be trained; what needs none is known."""

import pytest
import torch
from torch import nn

from visalign.errors import UserError
from visalign.trainers.reach import GradientReach


class Cut(nn.Linear):
    """A layer whose output has a value and no derivative, as int8 with dynamic activations has."""

    def forward(self, x):
        return super().forward(x).detach()


def network(middle=nn.Linear):
    return nn.Sequential(nn.Linear(2, 2), middle(2, 2), nn.Linear(2, 2))


def learn(module, reach, part=slice(None)):
    module[part](torch.ones(1, 2)).sum().backward()
    reach.check()


def test_all_reached_is_silent_and_zeros_are_reached():
    module = network()
    nn.init.zeros_(module[2].weight)
    learn(module, GradientReach(module.named_parameters()))
    assert not module[0].weight.grad.any()


def test_what_no_gradient_reaches_is_counted_and_named():
    module = network(Cut)
    with pytest.raises(UserError, match=r"reaches 4 of 6 trainable tensors: 0.bias, 0.weight, 1.bias and 1 more"):
        learn(module, GradientReach(module.named_parameters()))


def test_it_looks_once():
    module = network()
    reach = GradientReach(module.named_parameters())
    learn(module, reach)
    module.zero_grad()
    reach.check()


def test_names_that_the_model_never_uses_are_left_aside():
    module = network()
    learn(module, GradientReach([*module.named_parameters(), ("logit_scale", nn.Parameter(torch.ones(())))],
                                [r"(^|\.)logit_scale$"]))


def test_a_network_of_several_is_looked_at_when_it_was_used():
    module = network(Cut)
    reach = GradientReach(module.named_parameters(), apart=("0.", "1.", "2."))
    learn(module, reach, slice(2, 3))
    with pytest.raises(UserError, match="1 of 6 trainable tensors: 0.bias"):
        module[0].weight.grad = torch.ones(2, 2)
        reach.check()


@pytest.mark.parametrize("loop", ["recipe", "online_recipe"])
def test_a_training_ends_in_a_sentence(loop, request, monkeypatch):
    from click.testing import CliRunner

    from visalign.cli import main
    from visalign.generators.base import Generator

    real = Generator.make_trainable

    def cut(self, *arguments, **options):
        found = real(self, *arguments, **options)
        for name, module in self.denoiser.named_modules():
            if name.endswith("blocks.0.attn.to_q"):
                module.register_forward_hook(lambda module, inputs, output: output.detach())
        return found

    monkeypatch.setattr(Generator, "make_trainable", cut)
    file = request.getfixturevalue(loop)("sd3", train={"batch_size": 2}, eval={"reward": None, "also": [],
                                                                               "features": None})
    result = CliRunner().invoke(main, ["train", str(file)])
    assert result.exit_code == 1 and "no gradient reaches 2 of 30 trainable tensors" in result.output, result.output
    assert "transformer_blocks.0.attn.to_q.lora_A.default.weight" in result.output
