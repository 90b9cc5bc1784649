"""What can be known of a rollout's guide before a model is loaded."""

from visalign.config import OnlineConfig
from visalign.config.load import build_advantage, build_objective
from visalign.errors import UserError
from visalign.generators import Generator
from visalign.guidance import Guiding
from visalign.guidance.network import find_guide, read_head, read_network
from visalign.parallel.opening import is_sharded_run


def check_rollout_guide(config: OnlineConfig, family: type[Generator]) -> None:
    """Raise UserError when samples cannot follow the recipe's guide, or something is to be learnt from one that is not
    there."""
    guide, name = config.rollout.guide, config.objective["name"]
    rule, objective = build_advantage(config.advantage), build_objective(config.objective, loop="online")
    distil = getattr(objective, "distil", 0.0)
    if (objective.view == "siblings") != bool(config.rollout.siblings):
        raise UserError(f"objective.name {name}: " + (
            "learns from candidates of a step that a guide scores; set rollout.siblings and rollout.guide"
            if objective.view == "siblings" else "learns nothing from rollout.siblings; use spo, or leave them out"))
    if guide is None:
        for setting, value in (("advantage.process_weight", rule.process_weight), ("objective.distil", distil)):
            if value:
                raise UserError(f"{setting} {value:g}: is learnt from what a guide says of sampling steps; set "
                                "rollout.guide, or leave it out")
        return
    if objective.view not in ("steps", "siblings"):
        raise UserError(f"rollout.guide: moves the steps of a stochastic sampler, from which objective.name {name} "
                        "does not learn; use an objective that does, such as grpo, or leave the guide out")
    if rule.process_weight and not objective.credits_steps:
        raise UserError(f"advantage.process_weight {rule.process_weight:g}: objective.name {name} compares whole "
                        "samples; leave it out, or use grpo, grpo_guard or flow_dppo")
    if distil and not guide.scale:
        raise UserError(f"objective.distil {distil:g}: rollout.guide.scale 0 moves nothing that could be learnt; set a "
                        "scale above 0, or leave distil out")
    if is_sharded_run():
        raise UserError("rollout.guide: reads inside the network while samples are drawn, and processes that share it "
                        "hold only parts; use configs/accelerate/ddp.yaml")
    for setting, off in (("compile", config.model.compile), ("offload", config.model.offload == "blocks")):
        if off:
            raise UserError(f"rollout.guide: needs gradients through the network's first blocks, which model.{setting} "
                            f"{getattr(config.model, setting)} does not give; leave one of them out")
    folder = find_guide(guide.source)
    Guiding(guide.weights, guide.first, guide.last).check(read_head(folder).dimensions)
    network = read_network(folder)
    if network != family.pipeline_class:
        raise UserError(f"rollout.guide {guide.source}: was trained inside {network}, and {config.model.source} is "
                        f"{family.pipeline_class}; train one with `visalign guide train`")
