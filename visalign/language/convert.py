"""From settings to TRL's arguments: the one file that knows how TRL and transformers call things."""

import os
from typing import Any

import torch

from visalign.config import LanguageConfig, LanguageOnlineConfig, LanguageSettings, LoraSettings
from visalign.config.language_reward import LanguageRewardConfig
from visalign.config.load import build_objective
from visalign.errors import UserError, nearest
from visalign.generators.hardware.devices import pick_device, pick_dtype
from visalign.language.trl import import_trl

TRL_OPTIMIZERS = {"adamw": "adamw_torch", "adamw8bit": "adamw_bnb_8bit", "paged_adamw8bit": "paged_adamw_8bit",
              "adafactor": "adafactor", "lion8bit": "lion_8bit", "adamw_schedulefree": "schedule_free_adamw"}
"""Of optim.name, what transformers calls it."""
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def held_precision(config: LanguageSettings, device: torch.device | None = None) -> torch.dtype:
    """In which weights are held: those below a LoRA as they are computed with on a GPU, all others in fp32.

    device: one that need not be here (None: the run's).
    """
    device = device or pick_device(config.train.device)
    lora = config.model.tuning == "lora" and device.type == "cuda"
    return pick_dtype(config.model.precision, device) if lora else torch.float32


def trl_arguments(config: LanguageSettings, kind: str, folder: str) -> Any:
    """Arguments of one of TRL's trainers, by the name of their class (`DPOConfig`), with `train.trl` on top.

    Raises UserError for fields that are unknown, or that settings of this package decide.
    """
    given = _shared(config, folder) | OWN[kind](config)
    arguments = getattr(import_trl(), kind)
    fields = arguments.__dataclass_fields__
    for name in config.train.trl:
        if name not in fields:
            raise UserError(f"train.trl.{name}: {kind} of TRL has no such field{nearest(name, fields)}")
        if name in given or name in REFUSED:
            raise UserError(f"train.trl.{name}: is decided by {REFUSED.get(name, 'settings of this recipe')}; leave it "
                            "out of train.trl")
    try:
        return arguments(**given, **config.train.trl)
    except (ValueError, TypeError) as error:
        raise UserError(f"train.trl: TRL refuses these settings ({' '.join(str(error).split())[:200]})") from None


REFUSED = {"beta": "objective.beta", "loss_type": "objective.name", "loss_weights": "objective's own settings",
           "label_smoothing": "objective.label_smoothing, which TRL would leave out", "num_train_epochs": "train.steps",
           "report_to": "output.trackers", "push_to_hub": "`visalign push`", "resume_from_checkpoint": "--resume",
           "trust_remote_code": "nobody: code of a model is not run", "fsdp": "accelerate launch --config_file",
           "deepspeed": "accelerate launch --config_file",
           "reward_weights": "reward.models", "generation_batch_size": "rollout.prompts_per_step",
           "steps_per_generation": "rollout.prompts_per_step", "multi_objective_aggregation": "advantage.combine"}
"""Fields of TRL that are never passed through, and what decides them here."""


def _shared(config: LanguageSettings, folder: str) -> dict[str, Any]:
    optim, train = config.optim, config.train
    device = pick_device(train.device)
    precision = pick_dtype(config.model.precision, device)
    if optim.name not in TRL_OPTIMIZERS:
        raise UserError(f"optim.name {optim.name}: is not among the optimisers of language runs"
                        f"{nearest(optim.name, TRL_OPTIMIZERS)}")
    return {
        "output_dir": folder, "max_steps": train.steps, "per_device_train_batch_size": train.batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation, "learning_rate": optim.lr,
        "lr_scheduler_type": SCHEDULES[optim.schedule], "warmup_steps": optim.warmup_steps,
        "weight_decay": optim.weight_decay, "adam_beta1": optim.betas[0], "adam_beta2": optim.betas[1],
        "optim": TRL_OPTIMIZERS[optim.name],
        "optim_args": ",".join(f"{name}={value}" for name, value in optim.options.items()) or None,
        "max_grad_norm": 0.0 if optim.grad_clip is None else optim.grad_clip,
        "seed": train.seed, "data_seed": train.seed, "use_cpu": device.type == "cpu",
        "bf16": precision == torch.bfloat16, "fp16": precision == torch.float16,
        "gradient_checkpointing": config.model.gradient_checkpointing,
        "logging_steps": 1, "logging_nan_inf_filter": False, "report_to": [], "disable_tqdm": True,
        "save_strategy": "no", "eval_strategy": "no", "remove_unused_columns": False, "push_to_hub": False,
        "dataloader_num_workers": 0, "dataloader_pin_memory": device.type == "cuda",
    }


def _pairs(config: LanguageConfig) -> dict[str, Any]:
    # None: rows that are too long have been counted and left out before, and nothing is ever cut
    shared = {"max_length": None, "beta": 0.1, "disable_dropout": not config.model.lora.dropout}
    in_order = config.data.feedback is not None and config.data.feedback.imitates
    return shared | ({"train_sampling_strategy": "sequential"} if in_order else {})


def _group(config: LanguageOnlineConfig) -> dict[str, Any]:
    rollout, train = config.rollout, config.train
    together = train.batch_size * int(os.environ.get("WORLD_SIZE", "1"))
    return {"num_generations": rollout.group_size, "max_completion_length": rollout.max_tokens,
            "gradient_accumulation_steps": rollout.answers_per_step // together,
            "temperature": rollout.temperature, "top_p": rollout.top_p, "use_vllm": rollout.vllm,
            "scale_rewards": "none", "disable_dropout": True} | _of_method(
                build_objective(config.objective, loop=config.methods))


LENGTHS = {"constant": "dr_grpo", "tokens": "dapo", "answer": "grpo"}
"""Of objective.length, what TRL calls the loss."""


def _of_method(objective) -> dict[str, Any]:
    if objective.compares:
        return {"beta": objective.beta}  # the loss is this package's; with a beta TRL keeps the reference for it
    return {"beta": objective.beta, "loss_type": LENGTHS[objective.length], "epsilon": objective.clip,
            "epsilon_high": objective.clip_high, "importance_sampling_level": objective.level,
            "num_iterations": objective.updates, "entropy_coef": objective.entropy,
            "top_entropy_quantile": objective.top_entropy,
            "mask_truncated_completions": not objective.truncated}


def _reward(config: LanguageRewardConfig) -> dict[str, Any]:
    objective = build_objective(config.objective, loop=config.methods)
    return {"max_length": None, "center_rewards_coefficient": objective.center or None,
            "disable_dropout": not config.model.lora.dropout}


OWN = {"DPOConfig": _pairs, "GRPOConfig": _group, "RewardConfig": _reward}
"""What each kind of trainer has beside what all have."""


def peft_config(lora: LoraSettings) -> Any:
    """peft's settings of an adapter on all linear layers, or on those that are named."""
    from peft import LoraConfig

    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, task_type="CAUSAL_LM",
                      target_modules=list(lora.targets) if lora.targets else "all-linear",
                      use_rslora=lora.kind == "rslora", use_dora=lora.kind == "dora",
                      rank_pattern=dict(lora.rank_pattern), alpha_pattern=dict(lora.alpha_pattern))
