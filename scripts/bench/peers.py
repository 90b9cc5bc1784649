"""What two published training scripts do in a step or an epoch, on the networks of sized.py, for the table of gpu.py.

Own code after reading theirs. `FlowGrpo`: github.com/yifan123/flow_grpo at ac4c86e, `scripts/train_sd3.py`,
`flow_grpo/diffusers_patch/sd3_pipeline_with_logprob.py` and `sd3_sde_with_logprob.py`, with `pickscore_sd3_4gpu` of
`config/grpo.py` and `scripts/accelerate_configs/multi_gpu.yaml`. `DiffusersDpo`: github.com/huggingface/diffusers at
58eb52c, `examples/research_projects/diffusion_dpo/train_diffusion_dpo_sdxl.py`, started as its README says.

The same as theirs: which networks are held, where and in which type, every pass, its batch, and autocast to fp16 with a
loss scale; LoRA and its start, optimiser, clipping, the order of passes and what is kept between them; what waits for
the device. Left out, each in favour of theirs: reading and decoding of images (their process does it between steps),
trackers, progress bars, checkpoints, evaluation, the wrapper of several processes.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from sized import pipeline_of, shape_of
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, mse_loss

from visalign.generators import FAMILIES
from visalign.media.samples import Sample
from visalign.rewards.registry import load_reward


def half(device: torch.device) -> torch.dtype:
    """fp16 as with them, and bf16 on a CPU, which is slow in fp16."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


class _Peer:
    """One call is one unit of work; `samples` are what it learns from."""

    samples: int

    def __init__(self, network: nn.Module, device: torch.device, **optimizer: float):
        self.network, self.device = network, device
        self.learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for parameter in self.learnt:
            parameter.data = parameter.data.float()
        self.optimizer = torch.optim.AdamW(self.learnt, **optimizer)
        self.scaler = torch.amp.GradScaler(device.type)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, half(self.device))

    def step(self) -> None:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.learnt, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


class FlowGrpo(_Peer):
    """An epoch of two groups of 16 samples (a card of theirs has four), drawn, scored and learnt from 8 at once.

    All weights but the text encoders' are in single precision. Ten steps with guidance, both prompts in one pass, each
    with its log-probability; nine of them are learnt from, with gradients through both halves and a pass of the
    reference; two updates, and an average of the weights. Prompts are encoded for each batch anew, T5's to 128 tokens.
    Samples are decoded in single precision. The reward, with them a network, is the rule of our row, scored by threads.
    """

    AT_ONCE, GROUP, STEPS, GUIDANCE, NOISE, BETA, CLIP = 8, 16, 10, 4.5, 0.7, 0.01, 1e-4

    def __init__(self, device: torch.device, tiny: bool):
        self.samples = self.GROUP * (1 if tiny else 2)
        self.pipeline = pipeline_of("sd3.5-medium", device, device, torch.float32, half(device), tiny)
        self.scheduler, self.size = self.pipeline.scheduler, shape_of("sd3.5-medium", tiny)
        self.tokens = 16 if tiny else 128
        for part in ("text_encoder", "text_encoder_2", "text_encoder_3", "vae"):
            getattr(self.pipeline, part).requires_grad_(False).eval()
        targets = list(FAMILIES["StableDiffusion3Pipeline"].lora_targets)
        network = get_peft_model(self.pipeline.transformer.requires_grad_(False), LoraConfig(
            r=32, lora_alpha=64, init_lora_weights="gaussian", target_modules=targets))
        super().__init__(network, device, lr=3e-4, betas=(0.9, 0.999), weight_decay=1e-4, eps=1e-8)
        self.average, self.updates = [parameter.detach().clone() for parameter in self.learnt], 0
        self.reward, self.thread = load_reward("saturation"), ThreadPoolExecutor(8)
        with torch.no_grad():
            self.negative = self.encoded([""])

    def __call__(self) -> None:
        matrices = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            self.learn(self.collected())
        finally:
            torch.backends.cuda.matmul.allow_tf32 = matrices

    def encoded(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        words, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device=self.device, do_classifier_free_guidance=False, max_sequence_length=self.tokens)
        return words, pooled

    @torch.no_grad()
    def collected(self) -> dict[str, Tensor]:
        """An epoch's samples, row by row: latents before and after steps, log-probabilities, times, advantages."""
        self.network.eval()
        drawn, scores = [], []
        for first in range(0, self.samples, self.AT_ONCE):
            prompts = [f"a red fruit {(first + row) // self.GROUP}" for row in range(self.AT_ONCE)]
            words, pooled = self.encoded(prompts)
            latents, log_probs = self.drawn(words, pooled)
            vae = self.pipeline.vae
            pixels = vae.decode(latents[-1] / vae.config.scaling_factor + vae.config.shift_factor).sample
            scores.append(self.thread.submit(self.score, (pixels / 2 + 0.5).clamp(0, 1), prompts))
            path = torch.stack(latents, 1)
            drawn.append({"before": path[:, :-1], "after": path[:, 1:], "log_prob": torch.stack(log_probs, 1),
                          "time": self.scheduler.timesteps.repeat(self.AT_ONCE, 1), "words": words, "pooled": pooled})
        rewards = torch.cat([score.result() for score in scores])
        samples = {name: torch.cat([each[name] for each in drawn]) for name in drawn[0]}
        own = rewards.view(-1, self.GROUP).mean(1).repeat_interleave(self.GROUP)
        samples["advantage"] = ((rewards - own) / (rewards.std() + 1e-4)).to(self.device)
        return samples

    def score(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        images = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        samples = [Sample(prompt, Image.fromarray(image)) for prompt, image in zip(prompts, images, strict=True)]
        return self.reward.score(samples).values[:, 0]

    def drawn(self, words: Tensor, pooled: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Latents before and after every step, in single precision but the first, and log-probabilities."""
        count, side = len(words), self.pipeline.vae_scale_factor
        shape = count, self.pipeline.transformer.config.in_channels, self.size.height // side, self.size.width // side
        x = torch.randn(shape, device=self.device, dtype=words.dtype)
        self.scheduler.set_timesteps(self.STEPS, device=self.device)
        latents, log_probs = [x], []
        for time in self.scheduler.timesteps:
            velocity = self.velocity(x, time.expand(count), words, pooled).to(words.dtype)
            after, log_prob, *_ = self.transition(velocity, time[None], x)
            latents.append(after)
            log_probs.append(log_prob)
            x = after.to(words.dtype)
        return latents, log_probs

    def velocity(self, x: Tensor, time: Tensor, words: Tensor, pooled: Tensor) -> Tensor:
        """Guided, both prompts in one pass. The negative one's rows pass backward, too, with gradients of zero."""
        words, pooled = (torch.cat([negative.expand(len(x), *negative.shape[1:]), own])
                         for negative, own in zip(self.negative, (words, pooled), strict=True))
        with self.autocast():
            both = self.network(hidden_states=torch.cat([x, x]), timestep=torch.cat([time, time]),
                                encoder_hidden_states=words, pooled_projections=pooled, return_dict=False)[0].float()
        unguided, wanted = both.chunk(2)
        unguided = unguided.detach()
        return unguided + self.GUIDANCE * (wanted - unguided)

    def transition(self, velocity: Tensor, times: Tensor, x: Tensor, after: Tensor | None = None):
        """Latents after a step, log-probability [B], mean and rate of noise; steps are looked up one by one."""
        velocity, x = velocity.float(), x.float()
        places = [self.scheduler.index_for_timestep(time) for time in times]
        sigmas = self.scheduler.sigmas.to(x.device)
        sigma, following = (sigmas[[place + more for place in places]].view(-1, 1, 1, 1) for more in (0, 1))
        dt = following - sigma
        rate = self.NOISE * torch.sqrt(sigma / (1 - torch.where(sigma == 1, sigmas[1].item(), sigma)))
        drift = rate**2 / (2 * sigma)
        mean = x * (1 + drift * dt) + velocity * (1 + drift * (1 - sigma)) * dt
        std = rate * torch.sqrt(-dt)
        if after is None:
            after = mean + std * torch.randn_like(mean)
        log_prob = -(after.detach() - mean) ** 2 / (2 * std**2) - torch.log(std) - 0.5 * np.log(2 * np.pi)
        return after, log_prob.mean((1, 2, 3)), mean, rate

    def learn(self, samples: dict[str, Tensor]) -> None:
        self.network.train()
        order = torch.randperm(self.samples, device=self.device)
        batches = [{name: value[rows] for name, value in samples.items()} for rows in order.split(self.AT_ONCE)]
        gathered = len(batches) // 2
        for number, batch in enumerate(batches, 1):
            trained = int(self.STEPS * 0.99)
            for j in range(trained):
                self.scaler.scale(self.loss(batch, j) / (gathered * trained)).backward()
            if number % gathered == 0:
                self.step()
                self.updates += 1
            self.follow()

    def loss(self, batch: dict[str, Tensor], j: int) -> Tensor:
        def taken() -> tuple[Tensor, Tensor, Tensor]:
            where = batch["before"][:, j], batch["time"][:, j]
            velocity = self.velocity(*where, batch["words"], batch["pooled"])
            return self.transition(velocity, where[1], where[0], batch["after"][:, j].float())[1:]

        log_prob, mean, rate = taken()
        with torch.no_grad(), self.network.disable_adapter():
            reference = taken()[1]
        ratio, advantage = torch.exp(log_prob - batch["log_prob"][:, j]), batch["advantage"].clamp(-5, 5)
        bounded = ratio.clamp(1 - self.CLIP, 1 + self.CLIP)
        policy = torch.maximum(-advantage * ratio, -advantage * bounded).mean()
        return policy + self.BETA * ((mean - reference) ** 2 / (2 * rate**2)).mean()

    @torch.no_grad()
    def follow(self) -> None:
        if (self.updates + 1) % 8 == 0:
            for average, parameter in zip(self.average, self.learnt, strict=True):
                average.lerp_(parameter, 0.1)


class DiffusersDpo(_Peer):
    """A step on `pairs` pairs: encoded by VAE and text encoders, then policy and reference on both sides in one batch.

    U-Net and text encoders are held in fp16, the VAE in single precision, all on the card; images and prompts are
    encoded in every step, 8 images at once. Gradient checkpointing; the reference is the U-Net without its adapter,
    passed through while the policy's activations are held. Rank 64 and AdamW in single precision as in our rows, where
    the README has rank 8 and 8-bit Adam; batch size and accumulation are those of our row.
    """

    ENCODED, BETA = 8, 5000

    def __init__(self, device: torch.device, tiny: bool, pairs: int = 4):
        from diffusers import DDPMScheduler

        self.pipeline = pipeline_of("sdxl", device, device, half(device), half(device), tiny)
        self.size, self.samples = shape_of("sdxl", tiny), 2 * pairs
        for part in ("text_encoder", "text_encoder_2", "vae"):
            getattr(self.pipeline, part).requires_grad_(False).eval()
        unet = self.pipeline.unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=64, lora_alpha=64, init_lora_weights="gaussian",
                                    target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
        unet.enable_gradient_checkpointing()
        super().__init__(unet.train(), device, lr=1e-5, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        self.scheduler = DDPMScheduler.from_config(self.pipeline.scheduler.config)
        self.pixels = torch.rand(pairs, 6, self.size.height, self.size.width) * 2 - 1  # both images of a pair
        self.prompts = [f"a red fruit {row}" for row in range(pairs)]

    def __call__(self) -> None:
        latents = self.encoded()
        noise = torch.randn_like(latents).chunk(2)[0].repeat(2, 1, 1, 1)
        times = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(self.prompts),), device=self.device)
        arguments = self.arguments(self.scheduler.add_noise(latents, noise, times.repeat(2)), times.repeat(2))
        errors = self.errors(arguments, noise)
        self.network.disable_adapters()
        with torch.no_grad():
            reference = self.errors(arguments, noise)
        self.network.enable_adapters()
        change, before = ((chosen - rejected) for chosen, rejected in (errors.chunk(2), reference.chunk(2)))
        inside = -0.5 * self.BETA * (change - before)
        loss = -logsigmoid(inside).mean()
        self.scaler.scale(loss).backward()
        self.step()
        for logged in (loss, errors.mean(), reference.mean(), (inside > 0).float().mean()):
            logged.item()

    @torch.no_grad()
    def encoded(self) -> Tensor:
        """Latents [2 B, ...] of all chosen, then all rejected images, drawn from the posterior."""
        vae = self.pipeline.vae
        images = torch.cat(self.pixels.to(self.device).chunk(2, dim=1))
        return torch.cat([vae.encode(part).latent_dist.sample() for part in images.split(self.ENCODED)]) \
            * vae.config.scaling_factor

    @torch.no_grad()
    def arguments(self, noised: Tensor, times: Tensor) -> dict:
        """Of the U-Net, for both sides; prompts are encoded once for a pair."""
        words, _, pooled, _ = self.pipeline.encode_prompt(self.prompts, device=self.device,
                                                          do_classifier_free_guidance=False)
        sides = (self.size.height, self.size.width)
        sizes = torch.tensor([[*sides, 0, 0, *sides]], device=self.device, dtype=words.dtype).repeat(len(times), 1)
        return {"sample": noised, "timestep": times, "encoder_hidden_states": words.repeat(2, 1, 1),
                "added_cond_kwargs": {"text_embeds": pooled.repeat(2, 1), "time_ids": sizes}}

    def errors(self, arguments: dict, noise: Tensor) -> Tensor:
        """Of each row, [2 B]."""
        with self.autocast():
            predicted = self.network(**arguments).sample
        return mse_loss(predicted.float(), noise.float(), reduction="none").mean((1, 2, 3))


PEERS: dict[str, Callable[[torch.device, bool], _Peer]] = {"flow_grpo": FlowGrpo, "diffusers_dpo": DiffusersDpo}
