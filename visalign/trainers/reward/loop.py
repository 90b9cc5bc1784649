"""The reward loop: from annotations to a unified reward, or (noisy_latents.py) to a reward on noisy latents.

    annotations -> both sides decoded and prepared in threads -> one pass over all frames -> loss -> step

As in the offline loop, data order and each head's bootstrap depend on (seed, place) alone: a killed run continues to
the same weights, and several processes learn what one does with the batch multiplied.

Run:  visalign reward train configs/reward_model/open_clip.yaml data.path=annotations.parquet
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor

from visalign.config import GuideConfig, RewardConfig
from visalign.config.load import build_objective
from visalign.data.annotations import Annotation
from visalign.generators.hardware.devices import pick_dtype
from visalign.objectives.base import Outcome
from visalign.objectives.reward_model import Comparison, bootstrap
from visalign.parallel.opening import engine_of
from visalign.rewards.joint.network import TOWERS
from visalign.sampling.seeds import rng_at
from visalign.storage.run_folder import RunFolder
from visalign.trainers.base import Trainer
from visalign.trainers.flips import LearntFlips
from visalign.trainers.offline.encoded_pairs import first_not_finite
from visalign.trainers.order import DataOrder, keep_digest
from visalign.trainers.prefetch import Prefetch
from visalign.trainers.reach import GradientReach
from visalign.trainers.reward.contexts import Contexts, labels_of
from visalign.trainers.reward.decorrelation import Decorrelation
from visalign.trainers.reward.sources import SourceBalance

STANDARD_SAMPLE = 1000
"""Training annotations that determine the reward's zero and unit."""


@dataclass(frozen=True)
class Prepared:
    """Tensors of one batch: inputs of both sides (a first, then b), labels [B, D], strength [B], doubt [B] of the
    labels where another reward has any, weight [B, E] of a bootstrap, which of the 2B inputs are videos, and their
    nuisances [2B, F] where the reward is kept free of any."""

    items: list[Annotation]
    inputs: dict[str, Tensor]
    outcome: Tensor
    rating_a: Tensor
    rating_b: Tensor
    strength: Tensor
    doubt: Tensor | None
    weight: Tensor | None
    is_video: Tensor
    nuisances: Tensor | None = None


class RewardTrainer(Trainer):
    """Trains a network on annotations.

    The network has `settings` (dimensions, members, frames), `collate(samples)`, and what `Head` says: `filters`,
    `beside`, `remembered` and `after_step(done)`;
    `forward(**collated)` gives what the objective takes, rewards [2B, E, D] or embeddings, of all first sides and then
    of all second ones.
    """

    label = "training the reward"
    shown = {"loss": "loss", "accuracy": "acc"}

    def __init__(self, config: RewardConfig | GuideConfig, network: torch.nn.Module, items: list[Annotation],
                 run: RunFolder, accelerator: Accelerator):
        self.network, self.settings = network, network.settings
        self.order = DataOrder(items, config.train.seed)
        self.contexts = Contexts(network, items, config.train.seed)
        keep_digest(run, [(side.prompt, side.digest(), sorted(item.outcome.items()), item.strength,
                           *filter(None, (item.user, item.context, 1 - item.chance)))
                          for item in items for side in (item.a, item.b)], "sides of annotations")
        self.doubts = any(item.chance < 1 for item in items)
        self.objective = build_objective(config.objective, loop="reward")
        engine = engine_of(accelerator)
        engine.shard(network)
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        groups = groups_of(named, config, getattr(network, "own_rates", {}))
        super().__init__(config, named, run, accelerator, groups=groups, engine=engine,
                         reach=GradientReach(named, getattr(network, "unused_weights", ())))
        self.dtype = pick_dtype(config.train.precision, accelerator.device)
        self.flips = LearntFlips(self.objective, decided_labels(items, self.settings.dimensions), accelerator)
        self.decorrelation = Decorrelation(getattr(config.train, "decorrelate", None), len(self.settings.dimensions),
                                           accelerator, config.train.seed)
        self.balance = SourceBalance(getattr(config.data, "balance", None), config.data.paths,
                                     getattr(network, "heads", network), accelerator)
        self.state.extras |= (self.flips.kept | self.decorrelation.kept | self.balance.kept | network.remembered())

    def networks(self) -> list[torch.nn.Module]:
        return [self.network]

    def together(self) -> dict[str, int]:
        return {"annotations a step": self.config.train.batch_size * self.engine.processes.world}

    @contextlib.contextmanager
    def learning(self) -> Iterator[None]:
        self.policy, self.optimizer = self.engine.prepare(self.network, self.state.optimizer)
        self.policy.train()
        train = self.config.train
        with Prefetch(self._plan, train.steps, train.workers) as self.batches:
            yield
        self.network.eval()

    def batch(self, step: int) -> Prepared:
        """Raises UserError when an item cannot be read."""
        return self.batches[step]

    def _plan(self, step: int) -> Callable[[], Prepared]:
        """The items of one step's batch; the returned call reads them."""
        size = self.config.train.batch_size
        first = (step * self.accelerator.num_processes + self.accelerator.process_index) * size
        indices = [self.order.index(place) for place in range(first, first + size)]
        return partial(self.prepare, indices, self.config.train.bootstrap, range(first, first + size))

    def prepare(self, indices: Sequence[int], bootstrap: bool = False, places: Iterable[int] | None = None) -> Prepared:
        """Annotations by index, from files to tensors on the CPU. places: of each in the order of training, with what
        is shown beside it; None where it is not learnt from."""
        weight = torch.stack([bootstrap_weight(i, self.settings.members, self.config.train.seed) for i in indices]) \
            if bootstrap else None
        whole = self.prepare_items([self.order.items[i] for i in indices], weight)
        if places is not None:
            whole.inputs.update(self.contexts.inputs_of(indices, places))
        return whole

    def prepare_items(self, items: list[Annotation], weight: Tensor | None = None) -> Prepared:
        """Annotations to tensors on the CPU; weight: of each for each member, [B, E], None for equal weights."""
        model = self.settings
        samples = [item.sample(side, model.frames) for side in "ab" for item in items]

        def ratings(get) -> Tensor:
            return torch.tensor([[get(item).get(name, float("nan")) for name in model.dimensions] for item in items])

        return Prepared(items, self.network.collate(samples), labels_of(items, model.dimensions),
                        ratings(lambda i: i.rating_a), ratings(lambda i: i.rating_b),
                        torch.tensor([item.strength for item in items]),
                        torch.tensor([1 - item.chance for item in items]) if self.doubts else None, weight,
                        torch.tensor([sample.modality == "video" for sample in samples]),
                        self.decorrelation.nuisances_of(samples))

    def train_unit(self, step: int, batch: Prepared) -> dict[str, float]:
        outcome, apart, said = self._loss(batch)
        self.stop_unless_finite(outcome.loss, batch)
        self.flips.seen(outcome.loss)
        self.backward(outcome.loss if apart is None else outcome.loss + apart)
        report = self.optimizer_step(batch)
        self.network.after_step(step + 1)
        loss = self.accelerator.gather(outcome.loss.detach().reshape(1)).mean().item()
        correct = self.accelerator.gather(outcome.metrics["accuracy"])
        return {"loss": loss, **report.as_row(), **accuracies(correct, self.settings.dimensions),
                **self.flips.after_step(), **self.decorrelation.after_step(step + 1), **self.balance.after_step(),
                **{name: self.accelerator.gather(values).nanmean().item() for name, values in said.items()}}

    def _loss(self, batch: Prepared) -> tuple[Outcome, Tensor | None, dict[str, Tensor]]:
        """The objective's, what is learnt beside it, and what the head says of that."""
        device = self.accelerator.device
        autocast = torch.autocast(device.type, self.dtype) if self.dtype != torch.float32 else contextlib.nullcontext()
        with autocast:
            rewards = self.policy(**{name: tensor.to(device) for name, tensor in batch.inputs.items()})
        a, b = rewards.float().chunk(2)
        done = self.state.step / self.config.train.steps
        filters = self.network.filters(batch.inputs, self.accelerator.gather)
        if batch.weight is not None:
            filters = (bootstrap(batch.weight.to(device)), *filters)
        labels = batch.outcome.to(device)
        pairs = Comparison(a, b, labels, *(t.to(device) for t in (
            batch.strength, batch.rating_a, batch.rating_b)), filters, self.flips.logit, done,
            None if batch.doubt is None else batch.doubt.to(device),
            across=lambda tensor: self.accelerator.reduce(tensor, "mean"), together=self.accelerator.gather)
        sources = torch.tensor([item.source for item in batch.items])
        outcome = self.objective(pairs._replace(
            filters=(*filters, *self.balance.filters(sources, pairs, self.objective))))
        beside = self.network.beside(labels, self.state.step)
        apart = [each for each in (self.decorrelation.penalty(rewards.float(), batch.nuisances, done),
                                   beside and beside.loss) if each is not None]
        return outcome, sum(apart) if apart else None, beside.metrics if beside else {}

    @torch.no_grad()
    def keep_users(self) -> None:
        """Let the trained head keep what it knows its users by, where it has some."""
        self.contexts.keep(self._sides_of)

    def _sides_of(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features of both sides of annotations, [2n, 1 or D, d], and which are videos [2n], on the run's device."""
        device, size, parts = self.accelerator.device, self.config.train.batch_size, []
        for start in range(0, len(indices), size):
            batch = self.prepare(indices[start:start + size])
            inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()
                      if name not in self.network.heads.reads}
            parts.append((self.network.backbone(**inputs), batch.is_video.to(device)))
        features, videos = ([side for each in zip(*(whole.chunk(2) for whole in column), strict=True) for side in each]
                            for column in zip(*parts, strict=True))
        return torch.cat(features), torch.cat(videos)

    @torch.no_grad()
    def standard(self) -> dict[str, list[float]]:
        """Mean and standard deviation of each dimension's reward over at most STANDARD_SAMPLE training annotations; {}
        of embeddings."""
        if self.objective.takes != "rewards":
            return {}
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

    def blame(self, batch: Prepared) -> str:
        cause = "a lower optim.lr or train.precision=fp32 usually helps"
        if not self.state.step:
            weight = first_not_finite(self.network)
            cause = f"nothing was learnt yet; {f'the weight {weight} is not' if weight else 'look at what it reads'}"
        return f" in the batch that begins with {batch.items[0].where} ({cause})"


def decided_labels(items: list[Annotation], dimensions: tuple[str, ...]) -> int:
    """How many labels name a winner, at least 1."""
    return max(1, sum(item.outcome.get(name) in (0.0, 1.0) for item in items for name in dimensions))


def groups_of(named: list[tuple[str, torch.nn.Parameter]], config: RewardConfig | GuideConfig,
              own: Mapping[str, float]) -> list[dict]:
    """Parameter groups: the backbone's pretrained weights have their own learning rate, and so have the tensors named
    in `own`, relative to optim.lr."""
    lr, scale = config.optim.lr, config.train.backbone_lr_scale
    groups = [{"params": [p for name, p in named if name.startswith(TOWERS)], "lr": lr * scale},
              {"params": [p for name, p in named if not name.startswith(TOWERS) and name not in own], "lr": lr},
              *({"params": [p for name, p in named if name == each], "lr": lr * rate} for each, rate in own.items())]
    return [group for group in groups if group["params"]]


def accuracies(correct: Tensor, dimensions: tuple[str, ...]) -> dict[str, float]:
    """Shares of correct predictions from correct [B, D], NaN where there is no label: over all, and by dimension."""
    def share(values: Tensor) -> float | None:
        return values.nanmean().item() if (~values.isnan()).any() else None

    overall = share(correct)
    by_name = {f"accuracy/{name}": share(column) for name, column in zip(dimensions, correct.unbind(1), strict=True)}
    return {"accuracy": 0.5 if overall is None else overall} | {k: v for k, v in by_name.items() if v is not None}


def bootstrap_weight(index: int, members: int, seed: int) -> Tensor:
    """How often each ensemble member's bootstrap contains item `index`: Poisson(1) draws, float32 [members]."""
    generator = rng_at(seed, index)
    return torch.poisson(torch.ones(members), generator=generator)
