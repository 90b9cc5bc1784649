"""Both sides of a pair together, or one after the other: the same loss and gradients, of half the activations."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainers.commands import fails
from visalign.config import ModelSettings
from visalign.config.load import build_objective
from visalign.generators import load_generator
from visalign.objectives import REGISTRIES, PairErrors
from visalign.trainers.offline.noised import Noised, recomputed_errors, row_errors, sample_errors

PAIRS = 8


class Alive(TorchDispatchMode):
    """The most bytes that tensors made within it ever took together."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor) and each.untyped_storage() not in self.known:
                self._follow(each.untyped_storage())
        return made

    def _follow(self, storage) -> None:
        self.known.add(storage)
        size = storage.nbytes()
        self.now, self.most = self.now + size, max(self.most, self.now + size)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size


@pytest.fixture(scope="module")
def generator(pipelines):
    torch.manual_seed(0)
    generator = load_generator(ModelSettings(source=str(pipelines("sd3")), precision="fp32"), "cpu")
    generator.make_trainable("lora", rank=4)
    with torch.no_grad():
        for name, parameter in generator.trainable_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return generator


@pytest.fixture(scope="module")
def both(generator) -> tuple[Noised, dict]:
    shape = generator.conventions.shape
    texts = generator.encode_prompts([f"number {i}" for i in range(PAIRS)])
    conditioning = dict.fromkeys(("chosen", "rejected"), texts)
    t = torch.rand(PAIRS).repeat(2) * 0.8 + 0.1
    return Noised(torch.randn(2 * PAIRS, *shape), t, torch.randn(2 * PAIRS, *shape), ("chosen", "rejected"),
                  torch.rand(2 * PAIRS)), conditioning


def learnt(generator, states, conditioning, objective, errors_of) -> tuple[float, list]:
    for _, parameter in generator.trainable_parameters():
        parameter.grad = None
    with torch.no_grad(), generator.reference():
        reference = sample_errors(generator, states, conditioning)
    policy = sample_errors(generator, states, conditioning, errors_of)
    even = torch.linspace(0.1, 1, PAIRS)
    loss = objective(PairErrors(policy["chosen"], even, even, policy["rejected"], reference["chosen"],
                                reference["rejected"], even, -even)).loss
    loss.backward()
    return loss.item(), [p.grad for _, p in generator.trainable_parameters()]


@pytest.mark.parametrize("name", [name for name, kind in REGISTRIES["offline"].items() if "rejected" in kind().needs])
def test_every_objective_that_compares_has_the_same_loss_and_gradients(generator, both, name):
    state, conditioning = both
    beta = {"beta": 1.0} if hasattr(REGISTRIES["offline"][name], "beta") else {}  # a large one magnifies rounding
    objective = build_objective({"name": name} | beta)
    loss, gradients = learnt(generator, [state], conditioning, objective, row_errors)
    again, others = learnt(generator, state.apart(), conditioning, objective, recomputed_errors)
    assert again == pytest.approx(loss, rel=1e-6)
    scale = max(g.abs().max() for g in gradients if g is not None)
    for mine, theirs in zip(gradients, others, strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or (mine - theirs).abs().max() <= 1e-5 * scale  # sums of float32 in another order


def test_it_holds_half_of_the_activations(generator, both):
    state, conditioning = both
    objective, most = build_objective({"name": "flow_dpo"}), {}
    for errors_of, states in ((row_errors, [state]), (recomputed_errors, state.apart())):
        with Alive() as alive:
            learnt(generator, states, conditioning, objective, errors_of)
        most[errors_of] = alive.most
    assert 0.4 < most[recomputed_errors] / most[row_errors] < 0.6


def test_a_number_weighs_both_sides(both):
    state = replace(both[0], weight=0.5)
    assert [(part.sides, part.weight, len(part.x_t)) for part in state.apart()] == [
        (("chosen",), 0.5, PAIRS), (("rejected",), 0.5, PAIRS)]


def test_an_objective_with_one_side_is_told_apart(recipe):
    assert "one_side_at_a_time: objective sft" in fails(recipe("sd3", "sft", train={"one_side_at_a_time": True}))
