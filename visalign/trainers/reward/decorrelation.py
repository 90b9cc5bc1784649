"""A reward that is kept from following nuisances while it learns: FiMi-RM (arXiv 2505.12843, by a note of the paper).

    1. warm-up    L_pairs alone
    2. every n steps: n steps of a small net that foretells the reward from the nuisances, max |rho(sg r, r^)|
    3. all steps after the warm-up: L_pairs + weight * |rho(r, sg r^)|

rho is Pearson's correlation, of a batch together with the newest samples of earlier ones, since that of a batch alone
is noise. It knows nothing of a reward's zero and unit, so its gradient is at right angles to both. What is subtracted
from a reward afterwards (`debiased`) cannot undo what the order has learnt; this keeps it from being learnt.

Differs from the paper in: several nuisances at once, of images and videos; one output of the net for each dimension.
Recipe: configs/reward_model/decorrelated.yaml.
"""

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from visalign.config.reward import DecorrelateSettings
from visalign.media.samples import Sample
from visalign.rewards.bias import FEATURES, nuisance

WAVES, HIDDEN, RATE, LEAST = (0.5, 1.0, 2.0), 32, 1e-2, 64
"""Frequencies of the net's sinusoids, per standard deviation; its width and learning rate; the fewest samples that it
learns from."""


def correlation_of(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's rho over the first dimension, [...]; 0 where one side is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    size = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return (a * b).sum(0) / size.clamp(min=1e-12)


class NuisanceNet(nn.Module):
    """Standardised nuisances [n, F] to a foretold reward in each dimension, [n, D]: sinusoids, and two blocks that add
    to what they read."""

    def __init__(self, features: int, dimensions: int):
        super().__init__()
        self.first = nn.Linear(2 * len(WAVES) * features, HIDDEN)
        self.blocks = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(2))
        self.last = nn.Linear(HIDDEN, dimensions)

    def forward(self, z: Tensor) -> Tensor:
        angles = math.pi * torch.cat([wave * z.clamp(-3, 3) for wave in WAVES], 1)
        hidden = self.first(torch.cat([angles.sin(), angles.cos()], 1))
        for block in self.blocks:
            hidden = hidden + block(torch.relu(hidden))
        return self.last(torch.relu(hidden))


class Decorrelation:
    """Of a run; does nothing without settings. Processes hold the same net and queue.

    kept: what a checkpoint keeps of it.
    """

    def __init__(self, settings: DecorrelateSettings | None, dimensions: int, accelerator: Accelerator, seed: int):
        self.settings, self.accelerator = settings, accelerator
        self.kept: dict[str, Any] = {}
        if settings is None:
            return
        self.kept = {"decorrelation": self}
        self.columns = [FEATURES.index(name) for name in settings.features]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = NuisanceNet(len(self.columns), dimensions).to(accelerator.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=RATE)
        self.rewards = torch.zeros(0, dimensions, device=accelerator.device)
        self.nuisances = torch.zeros(0, len(self.columns), device=accelerator.device)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def nuisances_of(self, samples: list[Sample]) -> Tensor | None:
        """The settings' features of samples, float32 [n, F]; None without settings."""
        if self.settings is None:
            return None
        return torch.tensor([nuisance(sample) for sample in samples], dtype=torch.float32)[:, self.columns]

    def penalty(self, rewards: Tensor, nuisances: Tensor | None, done: float) -> Tensor | None:
        """weight |rho(r, sg r^)|, the mean over members and dimensions, of rewards [n, E, D]; None where there is none
        yet. done: the share of the run that is over."""
        if self.settings is None:
            return None
        nuisances = nuisances.to(rewards.device)
        self._seen.append((rewards.detach().mean(1), nuisances))
        if done < self.settings.warm_up or len(self.rewards) < LEAST:
            return None
        with torch.no_grad():
            foretold = self.net(self._standard(torch.cat([nuisances, self.nuisances])))[:, None]
        earlier = self.rewards[:, None].expand(-1, rewards.shape[1], -1)
        return self.settings.weight * correlation_of(torch.cat([rewards, earlier]), foretold).abs().mean()

    def after_step(self, step: int) -> dict[str, float]:
        """Queue what the step saw in all processes, and let the net learn when it is its turn; what is logged."""
        if self.settings is None:
            return {}
        rewards, nuisances = (self.accelerator.gather(torch.cat(each)) for each in zip(*self._seen, strict=True))
        self._seen.clear()
        self.rewards = torch.cat([self.rewards, rewards])[-self.settings.queue:]
        self.nuisances = torch.cat([self.nuisances, nuisances])[-self.settings.queue:]
        if len(self.rewards) < LEAST:
            return {}
        if step % self.settings.every == 0:
            for _ in range(self.settings.every):
                loss = -correlation_of(self.rewards, self.net(self._standard(self.nuisances))).abs().mean()
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
        with torch.no_grad():
            foretold = self.net(self._standard(self.nuisances))
        return {"foretold": correlation_of(self.rewards, foretold).abs().mean().item()}

    def _standard(self, nuisances: Tensor) -> Tensor:
        return (nuisances - self.nuisances.mean(0)) / self.nuisances.std(0).clamp(min=1e-6)

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "rewards": self.rewards,
                "nuisances": self.nuisances}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        device = self.accelerator.device
        self.rewards, self.nuisances = state["rewards"].to(device), state["nuisances"].to(device)
