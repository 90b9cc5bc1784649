"""Where samples come from, by rollout.engine."""

from collections.abc import Callable

from visalign.trainers.online.collect import RolloutCollector, RolloutParts, RolloutSource


def _on_ray(parts: RolloutParts) -> RolloutSource:
    from visalign.trainers.online.ahead.pool import RayPool
    from visalign.trainers.online.ahead.source import RolloutsAhead

    return RolloutsAhead(parts, RayPool(parts.config, str(parts.generator.device)))


SOURCES: dict[str, Callable[[RolloutParts], RolloutSource]] = {"local": RolloutCollector, "ray": _on_ray}
