"""The YAML that `visalign init` writes, with a comment wherever a newcomer may want another value."""

from visalign.storage.yaml_edits import quoted

EFFECTIVE_BATCH = 64
"""Pairs or samples that make an optimiser step on a large model, gathered in parts where the card is small."""


def offline_text(plan, name: str) -> str:
    """A recipe that learns from data; plan: of new_recipe.py."""
    copies = 1 if plan.chosen_only else 2
    batch = max(1, plan.at_once // copies)
    return "\n".join([
        _heading(plan, name), _model(plan), _data(plan), _offline_objective(plan), _optim(plan),
        "train:",
        f"  steps: {300 if plan.small else 2000}",
        f"  batch_size: {batch}".ljust(27) + "# on each GPU; halve it when memory runs out",
        f"  gradient_accumulation: {1 if plan.small else max(1, EFFECTIVE_BATCH // batch)}",
        *_times(plan), _eval(plan, every=100 if plan.small else 250), _guard(plan), _output(plan, name), ""])


def online_text(plan, name: str) -> str:
    """A recipe that learns from a reward on the model's own samples; plan: of new_recipe.py."""
    batch = plan.at_once
    return "\n".join([
        _heading(plan, name), _model(plan), _rollout(plan),
        "reward:", f"  models: {quoted(plan.answers.learn_from)}",
        *_ONLINE[plan.process], _optim(plan),
        "train:",
        f"  epochs: {12 if plan.small else 300}",
        "  updates_per_epoch: 2", f"  batch_size: {batch}",
        _eval(plan, every=4 if plan.small else 10), _guard(plan), _output(plan, name), ""])


def _heading(plan, name: str) -> str:
    what = f"the reward {plan.answers.learn_from}" if plan.from_reward else plan.answers.learn_from
    card = f"a card of {plan.answers.memory:g} GiB" if plan.answers.memory else "a CPU"
    return "\n".join([
        f"# {plan.family} learns from {what}, on {card}; written by `visalign init`.",
        f"# Look before you start: visalign train {name}.yaml --dry-run",
        f"# Then:                  visalign train {name}.yaml"])


def _model(plan) -> str:
    lines = ["model:", f"  source: {quoted(plan.answers.checkpoint)}"]
    lines += [f"  base: {quoted(plan.answers.base)}"] if plan.answers.base else []
    lines += ["  tuning: lora             # full learns every weight and needs several times the memory",
              f"  lora: {{rank: {plan.rank}, alpha: {plan.rank}}}"]
    if plan.small:
        lines += ["  attention: math          # faster than the fused kernel on short sequences"]
    else:
        lines += [f"  gradient_checkpointing: true   # the weights alone take {plan.weights:.1f} GiB",
                  "  precision: auto          # bf16 where the card has it"]
    return "\n".join(lines)


def _data(plan) -> str:
    lines = ["data:", f"  path: {quoted(plan.answers.learn_from)}",
             "  holdout: 0.05            # share of the prompts that is measured and never trained on"]
    if plan.chosen_only:
        lines += ["  caption_dropout: 0.1     # keeps guidance working"]
    return "\n".join(lines)


def _offline_objective(plan) -> str:
    if plan.chosen_only:
        return "objective:\n  name: sft                # the data name nothing that their samples are preferred to"
    name = "diffusion_dpo" if plan.process == "diffusion" else "flow_dpo"
    beta = usual_beta(plan.process, plan.small)
    return f"objective:\n  name: {name}\n" + f"  beta: {beta}".ljust(27) + "# smaller moves further from the start"


def usual_beta(process: str, small: bool) -> int:
    """beta of DPO on models of a process, "diffusion" or "flow"; small: those that train on a CPU."""
    return {("diffusion", True): 2000, ("diffusion", False): 5000, ("flow", True): 1000, ("flow", False): 2000}[
        process, small]


def _optim(plan) -> str:
    rate = ("2.0e-3" if plan.from_reward else "5.0e-4") if plan.small else "1.0e-4"
    return f"optim:\n  lr: {rate}" + ("" if plan.from_reward else f"\n  warmup_steps: {10 if plan.small else 100}")


def _times(plan) -> list[str]:
    if plan.process == "diffusion":
        return []
    return ["  timestep_sampling: logit_normal", "  timestep_shift: 3.0      # more weight on noisy times"]


def _rollout(plan) -> str:
    group = 8 if plan.small else 16
    lines = ["rollout:", f"  prompts: {quoted(plan.answers.prompts)}", "  prompts_per_epoch: 8",
             f"  group_size: {group}".ljust(27) + "# samples of a prompt that are compared with each other",
             f"  batch_size: {plan.at_once}"]
    return "\n".join([*lines, *_SAMPLING[plan.process, plan.small]])


_SAMPLING = {
    ("flow", True): ["  steps: 4", "  sampler: ode"],
    ("flow", False): ["  steps: 10", "  sampler: ode"],
    ("diffusion", True): ["  steps: 8", "  sampler: ddim", "  noise_level: 1.0", "  same_noise: true"],
    ("diffusion", False): ["  steps: 30", "  sampler: ddim", "  noise_level: 1.0", "  guidance_scale: 5.0"],
}
_ONLINE = {
    "flow": ["advantage:", "  drop_zero: false         # a sample of advantage 0 pulls towards the old policy",
             "objective:", "  name: nft                # DiffusionNFT: any sampler, no guidance",
             "  times: 2", "  decay: slow"],
    "diffusion": ["advantage:", "  history: 24              # a prompt is compared with what it scored before",
                  "objective:", "  name: grpo               # DDPO", "  clip: 1.0e-4"],
}


def _eval(plan, every: int) -> str:
    lines = ["eval:", f"  every: {every}"]
    if plan.embedded:
        also = "[tiny-clip, tiny-group]" if plan.answers.learn_from != "tiny-clip" else "[tiny-reward, tiny-group]"
        lines += [f"  prompts: {plan.embedded}:held_out", "  max_prompts: 32", "  samples_per_prompt: 4",
                  "  guidance_scale: 1.0",
                  *([f"  reward: {quoted(plan.answers.learn_from)}"] if plan.from_reward else []),
                  f"  also: {also}   # rewards that nothing is trained on", "  features: tiny-clip"]
        return "\n".join(lines)
    lines += ["  max_prompts: 16", "  samples_per_prompt: 4"]
    lines += [f"  reward: {quoted(plan.answers.learn_from)}"] if plan.from_reward else []
    return "\n".join([*lines, "  # also: [pickscore]      # a reward that nothing is trained on; it sees hacking",
                      "  # features: clip:ViT-L-14/openai   # measures diversity, so that a collapse is seen"])


def _guard(plan) -> str:
    if plan.embedded:
        return "guard:\n  action: warn             # rollback ends a run that collapses and returns to its best point"
    return "# guard: {action: rollback}  # with eval.features: end a run that collapses, return to its best point"


def _output(plan, name: str) -> str:
    return f"output:\n  folder: {quoted(f'runs/{name}')}"
