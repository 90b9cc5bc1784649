"""Weights that step as soon as their gradient is there end where those end that wait for all gradients."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tests.trainers.commands import fails
from visalign.config import OptimSettings
from visalign.errors import UserError
from visalign.parallel.engine import Engine
from visalign.trainers.gradients import gradients_for
from visalign.trainers.optim import build_optimizer, build_schedule, check_optimizer
from visalign.trainers.reach import GradientReach


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(16, 16) for _ in range(4)])


def walk(settings: OptimSettings, steps: int = 4) -> tuple[list, list, int]:
    """Weights, gradient norms, and the most gradients that were ever there together."""
    policy = network()
    named = list(policy.named_parameters())
    parameters = [parameter for _, parameter in named]
    optimizer = build_optimizer(settings, parameters)
    schedule, norms, held = build_schedule(settings, optimizer, steps), [], []
    gradients = gradients_for(settings, parameters, optimizer, Engine(Accelerator(cpu=True)))
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(
            lambda _: held.append(sum(each.grad is not None for each in parameters)))
    for step in range(steps):
        data = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        (policy(data) - data).square().mean().backward()
        GradientReach(named).check(gradients.reached)
        norms.append(float(gradients.norm()))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step == 1:  # as a resumed run does
            optimizer.load_state_dict(optimizer.state_dict())
    return [p.detach().clone() for p in parameters], norms, max(held)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "came", "lion", "muon"])
def test_the_same_weights_and_norms_without_ever_holding_two_gradients(name):
    settings = {"name": name, "lr": 1e-2, "grad_clip": None, "schedule": "cosine"}
    whole, norms, many = walk(OptimSettings(**settings))
    fused, others, few = walk(OptimSettings(**settings, fused_backward=True))
    assert all(a.equal(b) for a, b in zip(whole, fused, strict=True)) and not whole[0].equal(network()[0].weight)
    assert others == pytest.approx(norms, rel=1e-6) and (many, few) == (8, 0)


def test_optimisers_that_look_at_all_gradients_are_refused():
    pytest.importorskip("prodigyopt")
    with pytest.raises(UserError, match="a step of prodigy looks at all gradients"):
        check_optimizer(OptimSettings(name="prodigy", fused_backward=True, grad_clip=None))


@pytest.mark.parametrize("sections, words", [
    ({"optim": {"fused_backward": True}}, "optim.grad_clip=null"),
    ({"optim": {"fused_backward": True, "grad_clip": None}}, "those of an adapter are small"),
    ({"optim": {"fused_backward": True, "grad_clip": None}, "model": {"tuning": "full"},
      "train": {"gradient_accumulation": 2}}, "train.gradient_accumulation 2 adds several up"),
])
def test_what_needs_whole_gradients_is_refused(recipe, sections, words):
    assert words in fails(recipe("sd3", **sections))
