"""What an actor does: hold the generator and the rewards, draw a batch with the weights it is given, score it."""

import contextlib
import hashlib
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from visalign.config import OnlineConfig
from visalign.generators import load_generator
from visalign.generators.export.model_card import versions
from visalign.generators.hardware.devices import pick_device
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.fingerprint import fingerprint
from visalign.trainers.base import make_policy
from visalign.trainers.online.ahead.packing import DrawnBatch, Ready, packed_samples, put_packed
from visalign.trainers.online.collect import PromptEmbeddings, decoded_samples
from visalign.trainers.online.epochs import BatchRequest
from visalign.trainers.online.rollout import Sampler, sampler_of
from visalign.trainers.online.sample_watch import sample_watch
from visalign.trainers.online.scoring import AsyncScorer, RewardSet


class RolloutWorker:
    """Draws and scores batches of a recipe. folder: the learner's, which paths are relative to. threads: the learner's
    too, since sums in another order are other numbers."""

    def __init__(self, config: OnlineConfig, folder: str, threads: int):
        self.config, self.folder, self.threads = config, folder, threads
        self.version = -1

    def prepare(self) -> Ready:
        """Load everything. Raises UserError when it is not here, or cannot be held."""
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        torch.set_num_threads(self.threads)
        config = self.config
        device = pick_device(config.train.device)
        self.generator = load_generator(config.model, device)
        make_policy(self.generator, config)
        self.generator.set_dropout(False)
        self.sampler = sampler_of(config, self.generator)
        self.conditions = PromptEmbeddings(EncodingCache(config.rollout.cache, self.generator), config, device)
        self.parameters = self.generator.trainable_parameters()
        scored, at = bool(config.reward.models), (str(device), self.generator.modality)
        self.scorer = AsyncScorer(RewardSet(config.reward, *at, config.embedded_by, sample_watch(config, *at))
                                  ) if scored else None
        return Ready(f"{socket.gethostname()}, process {os.getpid()}", frozen_identity(self.sampler, self.conditions))

    def sample(self, request: BatchRequest, version: int, fetch: Callable[[], bytes]) -> DrawnBatch:
        """A batch drawn with the weights of a version, which are fetched when they are not here yet."""
        if version != self.version:
            put_packed(self.parameters, fetch())
            self.version = version
        self.conditions.load(request.prompts)
        starts, before = list(request.starts), Counter(self.generator.passes)
        clock = [time.perf_counter()]
        with self.generator.reference() if self.config.rollout.votes else contextlib.nullcontext():
            drawn = self.sampler.draw(starts, *self.conditions.of(starts), request.stochastic, request.kept)
        clock.append(time.perf_counter())
        made = decoded_samples(self.generator, drawn) if self.scorer else []
        clock.append(time.perf_counter())
        scores = self.scorer.result(self.scorer.submit(made)) if self.scorer else None
        clock.append(time.perf_counter())
        seconds = {name: later - earlier for name, earlier, later in zip(
            ("sampling", "decoding", "scoring"), clock, clock[1:], strict=False)}
        images = [(start.place, one) for start, one in zip(starts, made, strict=False)] if request.shown else []
        passes = dict(self.generator.passes - before)
        return DrawnBatch(self.version, packed_samples(drawn), scores, images, seconds, passes)


def frozen_identity(sampler: Sampler, conditions: PromptEmbeddings) -> str:
    """A hash of what must be equal in all processes: frozen weights, encoders, the guide and the packages that compute.
    """
    generator = sampler.generator
    frozen = [parameter for module in (generator.denoiser, *generator.frozen_modules(), *sampler.guide.networks())
              for parameter in module.parameters() if not parameter.requires_grad]
    parts = (versions(), conditions.key(""), fingerprint(nn.ParameterList(frozen)))
    return hashlib.sha256(repr(parts).encode()).hexdigest()
