"""The skeleton of the loops, by the smallest loop there can be: a linear layer that learns to double numbers."""

import contextlib
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from visalign.config.common import OutputSettings, Settings
from visalign.config.optim import OptimSettings
from visalign.errors import UserError
from visalign.storage.run_folder import RunFolder
from visalign.trainers.base import NonFinite, Trainer
from visalign.trainers.stopping import Stopped, heard

from .commands import rows, weights


class Doubling(Trainer):
    """Numbers drawn for a step, dropped out at random, to twice themselves."""

    label = "learning to double"

    def __init__(self, config, run, accelerator):
        torch.manual_seed(config.train.seed)
        self.network = nn.Linear(4, 4)
        super().__init__(config, list(self.network.named_parameters()), run, accelerator)

    @contextlib.contextmanager
    def learning(self):
        self.policy, self.optimizer = self.accelerator.prepare(self.network, self.state.optimizer)
        yield

    def batch(self, step):
        return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))

    def train_unit(self, step, batch):
        loss = (self.policy(nn.functional.dropout(batch, 0.1)) - 2 * batch).square().mean()
        self.stop_unless_finite(loss, batch)
        self.backward(loss)
        return {"loss": loss.item()} | self.optimizer_step(batch).as_row()


class Plain(Settings):
    optim: OptimSettings = OptimSettings(lr=0.2, ema_decay=0.5, schedule="cosine")
    output: OutputSettings = OutputSettings(checkpoint_every=1, keep_checkpoints=0)


@pytest.fixture
def build(tmp_path):
    def make(folder: str, kind=Doubling, steps=6, resume=False, **optim) -> Trainer:
        settings = Plain(optim=Plain().optim.model_copy(update=optim))
        config = SimpleNamespace(train=SimpleNamespace(seed=3, steps=steps), optim=settings.optim,
                                 output=settings.output)
        return kind(config, RunFolder(tmp_path / folder, settings, resume), Accelerator(cpu=True))

    return make


def follow(trainer: Trainer, **options) -> bool:
    with trainer.started():
        return trainer.fit(**options)


def test_a_loop_of_a_few_lines_learns_logs_and_keeps_every_step(build, tmp_path):
    assert not follow(build("run", steps=20))
    logged = rows(tmp_path / "run")
    assert [row["step"] for row in logged] == list(range(1, 21))
    assert {"loss", "grad_norm", "lr", "seconds"} <= logged[0].keys() and logged[-1]["loss"] < 0.5 * logged[0]["loss"]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 20


def test_a_run_that_was_cut_continues_to_the_same_bits(build, tmp_path):
    follow(build("whole"))
    assert follow(build("cut"), on_unit=lambda done: done == 3)
    torch.manual_seed(99)  # whatever happened meanwhile
    follow(build("cut", resume=True))
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert [row["loss"] for row in rows(tmp_path / "whole")] == [row["loss"] for row in rows(tmp_path / "cut")]
    kept = [torch.load(tmp_path / name / "checkpoints" / "step-00000006" / "optimizer.pt", weights_only=True)
            for name in ("whole", "cut")]
    for mine, other in zip(*(each["ema"]["shadow_params"] for each in kept), strict=True):
        assert torch.equal(mine, other)


def test_a_signal_waits_for_the_step_and_its_checkpoint(build, tmp_path):
    class Interrupted(Doubling):
        def train_unit(self, step, batch):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().train_unit(step, batch)

    with heard(), pytest.raises(Stopped, match="stopped, step 3 is kept"):
        follow(build("run", Interrupted))
    assert len(rows(tmp_path / "run")) == 3 and weights(tmp_path / "run", 3)


class Poisoned(Doubling):
    """The gradient of the second step is no number."""

    def reduce_gradients(self):
        if self.state.step == 1:
            self.network.weight.grad.fill_(float("nan"))


def test_a_gradient_that_is_not_finite_ends_the_run_and_names_the_last_checkpoint(build):
    with pytest.raises(UserError, match=r"step 2: the loss or its gradient is not finite .*checkpoint is .*00000001"):
        follow(build("run", Poisoned))


def test_or_its_step_is_left_out(build, tmp_path):
    class Skipping(Poisoned):
        non_finite = NonFinite.SKIP

    follow(build("run", Skipping))
    first, second, third = (weights(tmp_path / "run", step) for step in (1, 2, 3))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(second["weight"], third["weight"])
    rates = [row["lr"] for row in rows(tmp_path / "run")]
    assert rates[1] == rates[2] < rates[0]  # the schedule waits as well


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_learnt_from(build):
    class Endless(Doubling):
        def batch(self, step):
            return super().batch(step) * float("inf")

    with pytest.raises(UserError, match=r"step 1: .* not finite .*there is no earlier checkpoint"):
        follow(build("run", Endless))


def test_what_no_gradient_reaches_is_named(build):
    class Forgetful(Doubling):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.network.forward = lambda numbers: nn.functional.linear(numbers, self.network.weight)

    with pytest.raises(UserError, match="no gradient reaches 1 of 2 trainable tensors: bias"):
        follow(build("run", Forgetful))
