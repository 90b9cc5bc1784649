"""The third loop: annotations to a unified reward, or (trainers/guide.py) to a reward on noisy latents.

    annotations -> both sides decoded and prepared in threads -> one pass over all frames -> loss -> step

As in the offline loop, data order and each head's bootstrap depend on (seed, place) alone: a killed run continues to
the same weights, and several processes learn what one does with the batch multiplied.

Run:  visalign reward train configs/reward_model/open_clip.yaml data.path=annotations.parquet
"""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from visalign.config import GuideConfig, RewardConfig
from visalign.config.load import build_objective
from visalign.data.annotations import Annotation
from visalign.errors import UserError
from visalign.generators.loading import pick_dtype
from visalign.objectives.base import Outcome
from visalign.objectives.reward_model import Comparison, bootstrap
from visalign.sampling.seeds import place_seed, rng_at
from visalign.storage.files import full_disk_told
from visalign.storage.run_folder import RunFolder
from visalign.trainers.checkpoint import CONTINUE, Checkpoints, TrainingState
from visalign.trainers.offline.encoded_pairs import first_not_finite
from visalign.trainers.optim import build_ema, build_optimizer, build_schedule
from visalign.trainers.order import DataOrder, keep_digest
from visalign.trainers.reach import GradientReach
from visalign.trainers.stopping import postponed

STANDARD_SAMPLE = 1000
"""Training annotations whose items fix the reward's zero and unit."""


@dataclass(frozen=True)
class Prepared:
    """Tensors of one batch: inputs of both sides (a first, then b), labels [B, D], strength [B], weight [B, E] of a
    bootstrap, and which of the 2B inputs are videos."""

    items: list[Annotation]
    inputs: dict[str, Tensor]
    outcome: Tensor
    rating_a: Tensor
    rating_b: Tensor
    strength: Tensor
    weight: Tensor | None
    is_video: Tensor


class RewardTrainer:
    """Teaches a network from annotations.

    The network has `settings` (dimensions, members, frames) and `collate(samples)`; `forward(**collated)` gives
    rewards [2B, E, D], of all first sides and then of all second ones.
    """

    def __init__(self, config: RewardConfig | GuideConfig, network: torch.nn.Module, items: list[Annotation],
                 run: RunFolder, accelerator: Accelerator):
        self.config, self.network, self.run, self.accelerator = config, network, run, accelerator
        self.settings = network.settings
        self.order = DataOrder(items, config.train.seed)
        keep_digest(run, [(side.prompt, side.digest(), sorted(item.outcome.items()), item.strength,
                           *((item.user,) if item.user else ()))
                          for item in items for side in (item.a, item.b)], "sides of annotations")
        self.objective = build_objective(config.objective, loop="reward")
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        parameters = [p for _, p in named]
        optimizer = build_optimizer(config.optim, self._groups(named))
        self.state = TrainingState(named, optimizer, build_schedule(config.optim, optimizer, config.train.steps),
                                   build_ema(config.optim, parameters))
        self.checkpoints = Checkpoints(self.state, run, accelerator, config.output, config.train.steps)
        self.reach = GradientReach(named, getattr(network, "unused_weights", ()))
        self.dtype = pick_dtype(config.train.precision, accelerator.device)

    def _groups(self, named: list[tuple[str, torch.nn.Parameter]]) -> list[dict]:
        """Parameter groups: what the backbone brought along learns at its own rate."""
        towers = ("backbone.clip.", "backbone.model.")
        lr = self.config.optim.lr
        groups = [{"params": [p for name, p in named if name.startswith(towers)],
                   "lr": lr * self.config.train.backbone_lr_scale},
                  {"params": [p for name, p in named if not name.startswith(towers)], "lr": lr}]
        return [group for group in groups if group["params"]]

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Within: the run goes on from its newest checkpoint, and a signal or a full disk ends it with what to do."""
        self.checkpoints.resume()
        self.run.log({"kind": "start", "step": self.state.step, "processes": self.accelerator.num_processes})
        with self.checkpoints.kept_on_stop(), full_disk_told(f"run {self.run.path}", self.run.path, CONTINUE):
            yield

    def fit(self) -> None:
        """Train to config.train.steps.

        Raises UserError when a loss is not finite or an item cannot be read.
        """
        steps = self.config.train.steps
        self.policy, self.optimizer = self.accelerator.prepare(self.network, self.state.optimizer)
        self.policy.train()
        with ThreadPoolExecutor(self.config.train.workers) as pool, tqdm(
                total=steps, initial=self.state.step, desc="training the reward", unit="step",
                disable=not self.accelerator.is_main_process) as progress:
            ahead = [self._submit(pool, step) for step in range(self.state.step, min(steps, self.state.step + 3))]
            average = None
            while self.state.step < steps:
                started = time.perf_counter()
                prepared = ahead.pop(0).result()
                if self.state.step + 3 < steps:
                    ahead.append(self._submit(pool, self.state.step + 3))
                with postponed():
                    row = self._step(prepared)
                    self.state.step += 1
                    row["seconds"] = time.perf_counter() - started
                    self.run.log({"kind": "train", "step": self.state.step, **row})
                    self.accelerator.log(row, step=self.state.step)
                    average = row if average is None else {k: average.get(k, v) + 0.05 * (v - average.get(k, v))
                                                           for k, v in row.items()}
                    progress.update()
                    progress.set_postfix_str(f"loss {average['loss']:.3f} acc {average['accuracy']:.3f}")
                    self.checkpoints.after_step()
        self.network.eval()
        if self.state.ema:
            self.state.ema.copy_to([p for _, p in self.state.parameters])

    def _submit(self, pool: ThreadPoolExecutor, step: int) -> Future:
        """Prepare the batch of one step in a thread; which items it holds is settled here."""
        size = self.config.train.batch_size
        first = (step * self.accelerator.num_processes + self.accelerator.process_index) * size
        indices = [self.order.index(place) for place in range(first, first + size)]
        return pool.submit(self.prepare, indices, self.config.train.bootstrap)

    def prepare(self, indices: list[int], bootstrap: bool = False) -> Prepared:
        """Annotations by number, from files to tensors on the CPU."""
        weight = torch.stack([bootstrap_weight(i, self.settings.members, self.config.train.seed) for i in indices]) \
            if bootstrap else None
        return self.prepare_items([self.order.items[i] for i in indices], weight)

    def prepare_items(self, items: list[Annotation], weight: Tensor | None = None) -> Prepared:
        """Annotations to tensors on the CPU; weight: of each for each member, [B, E], None where all weigh alike."""
        model = self.settings
        samples = [item.a.sample(item.where, model.frames) for item in items]
        samples += [item.b.sample(item.where, model.frames) for item in items]

        def labels(get) -> Tensor:
            return torch.tensor([[get(item).get(name, float("nan")) for name in model.dimensions] for item in items])

        return Prepared(items, self.network.collate(samples), labels(lambda i: i.outcome),
                        labels(lambda i: i.rating_a), labels(lambda i: i.rating_b),
                        torch.tensor([item.strength for item in items]), weight,
                        torch.tensor([sample.modality == "video" for sample in samples]))

    def _step(self, batch: Prepared) -> dict[str, float]:
        torch.manual_seed(place_seed(self.config.train.seed, self.state.step))
        outcome = self._loss(batch)
        self._stop_if_not_finite(outcome.loss, batch)
        self.accelerator.backward(outcome.loss)
        self.reach.check()
        parameters = [p for _, p in self.state.parameters]
        norm = self.accelerator.clip_grad_norm_(parameters, self.config.optim.grad_clip)
        self._stop_if_not_finite(norm, batch)
        self.optimizer.step()
        self.optimizer.zero_grad()
        learning_rate = self.state.schedule.get_last_lr()[-1]
        self.state.advance()
        loss = self.accelerator.gather(outcome.loss.detach().reshape(1)).mean().item()
        row = {"loss": loss, "grad_norm": float(norm), "lr": learning_rate}
        correct = self.accelerator.gather(outcome.metrics["accuracy"])
        row["accuracy"] = correct.nanmean().item() if (~correct.isnan()).any() else 0.5
        for name, column in zip(self.settings.dimensions, correct.unbind(1), strict=True):
            if (~column.isnan()).any():
                row[f"accuracy/{name}"] = column.nanmean().item()
        return row

    def _loss(self, batch: Prepared) -> Outcome:
        device = self.accelerator.device
        autocast = torch.autocast(device.type, self.dtype) if self.dtype != torch.float32 else contextlib.nullcontext()
        with autocast:
            rewards = self.policy(**{name: tensor.to(device) for name, tensor in batch.inputs.items()})
        a, b = rewards.float().chunk(2)
        filters = () if batch.weight is None else (bootstrap(batch.weight.to(device)),)
        return self.objective(Comparison(a, b, *(t.to(device) for t in (
            batch.outcome, batch.strength, batch.rating_a, batch.rating_b)), filters,
            across=lambda tensor: self.accelerator.reduce(tensor, "mean")))

    @torch.no_grad()
    def standard(self) -> dict[str, list[float]]:
        """Mean and standard deviation of each dimension's reward over at most STANDARD_SAMPLE training annotations."""
        count, size = min(STANDARD_SAMPLE, len(self.order.items)), self.config.train.batch_size
        rewards, is_video = [], []
        for start in range(0, count, size):
            batch = self.prepare(list(range(start, min(start + size, count))))
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.inputs.items()}
            rewards.append(self.network(**inputs).mean(1).cpu())
            is_video.append(batch.is_video)
        values, videos = torch.cat(rewards), torch.cat(is_video)
        columns = [column[videos] if name in self.settings.video_only and videos.any() else column
                   for name, column in zip(self.settings.dimensions, values.unbind(1), strict=True)]
        return {"mean": [column.mean().item() for column in columns],
                "std": [max(column.std().item(), 1e-6) for column in columns]}

    def _stop_if_not_finite(self, value, batch: Prepared) -> None:
        if torch.as_tensor(value).isfinite().all():
            return
        cause = "a lower optim.lr or train.precision=fp32 usually helps"
        if not self.state.step:
            weight = first_not_finite(self.network)
            cause = f"nothing was learnt yet; {f'the weight {weight} is not' if weight else 'look at what it reads'}"
        raise UserError(f"step {self.state.step + 1}: the loss or its gradient is not finite in the batch that begins "
                        f"with {batch.items[0].where} ({cause}); {self.checkpoints.last_good()}")


def bootstrap_weight(index: int, members: int, seed: int) -> Tensor:
    """How often each ensemble member's bootstrap holds item `index`: Poisson(1) draws, float32 [members]."""
    generator = rng_at(seed, index)
    return torch.poisson(torch.ones(members), generator=generator)
