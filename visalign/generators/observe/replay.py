"""Calling a network as its pipeline does, with other latents, times and prompts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from visalign.generators.observe.arguments import ArgumentPath, path_name
from visalign.generators.observe.conventions import Conventions
from visalign.generators.observe.guidance import combine
from visalign.generators.observe.rows import Lengths, by_length, is_ragged, lengths_of, trimmed
from visalign.generators.observe.watching import NetworkCall, SchedulerStep, primary

Call = Callable[[dict[str, Any], dict[str, Tensor]], Any]
"""A network, given its arguments by name, and the conditioning of the samples they are of."""


class Replay:
    """The network's arguments for any batch, and its predictions from its output."""

    def __init__(self, conventions: Conventions):
        self.conventions = conventions
        self.computed: set[ArgumentPath] = {conventions.latents, *conventions.times, *conventions.embedded}

    def rows(self, step: SchedulerStep, wanted: bool) -> list[dict[str, Tensor]]:
        """The conditioning of each sample in a recorded first step. wanted: else the negative of a guided one."""
        rows = [row for call in step.calls for row in self.rows_of(call)]
        if self.conventions.guidance is None or len(rows) == 1:
            return rows
        half = len(rows) // 2
        first = self.conventions.wanted_place == 0
        return rows[:half] if first == wanted else rows[half:]

    def rows_of(self, call: NetworkCall) -> list[dict[str, Tensor]]:
        own, count = self.conventions, call.rows()
        fixed = own.to_network.fixed
        rows = own.layout.rows(call.arguments, count, self.computed if fixed is None else self.computed - {own.latents})
        if fixed is not None:
            for row in rows:
                given = row[path_name(own.latents)]
                row[path_name(own.latents)] = torch.where(fixed.view(given.shape), given, 0)
        return rows

    def in_one_pass(self, conditioning: dict[str, Tensor]) -> bool:
        """Whether the network takes these samples together, whatever their lengths."""
        return self.conventions.padding is not None or not is_ragged(conditioning)

    def predictions(self, network: Call, latents: Tensor, t: Tensor, conditioning: dict[str, Tensor],
                    scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Predictions [B, *output] as the network gives them, for latents [B, ...] and times [B]."""
        if self.in_one_pass(conditioning):
            return self._output(network(self.arguments(latents, t, conditioning, scale, dtype), conditioning))
        parts, order = [], []
        for places, batch in by_length(conditioning):
            where = places.to(latents.device)
            own = None if scale is None else scale[where]
            parts.append(self._output(network(self.arguments(latents[where], t[where], batch, own, dtype), batch)))
            order.append(where)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def arguments(self, latents: Tensor, t: Tensor, conditioning: dict[str, Tensor], scale: Tensor | None,
                  dtype: torch.dtype) -> dict[str, Any]:
        """scale: [B] of guidance, for networks that take it as an input. dtype: of the network."""
        own, device = self.conventions, latents.device
        name = path_name(own.latents)
        given = own.to_network(latents.to(dtype), conditioning.get(name))
        others: dict[ArgumentPath, Any] = {own.latents: list(given) if own.as_list else given}
        others |= {path: self._as_given(path, rule(t.to(device))) for path, rule in own.times.items()}
        others |= {path: factor * scale for path, factor in own.embedded.items() if scale is not None}
        for path in own.companions:  # its own noise at the level of the latents', over the mean of all data
            noise = conditioning[path_name(path)]
            others[path] = (noise * t.to(noise).view(-1, *[1] * (noise.ndim - 1))).to(dtype)
        lengths = lengths_of(conditioning)
        rows = {key: self._cast(key, value, dtype) for key, value in trimmed(conditioning, lengths).items()
                if key != name}
        return own.layout.joined(rows, len(latents), others | self._of_lengths(rows, lengths))

    def _of_lengths(self, rows: dict[str, Tensor], lengths: Lengths) -> dict[ArgumentPath, Any]:
        """The arguments that depend on the samples' lengths, and on more than their padded rows."""
        own, found = self.conventions, {}
        for name, (axis, each) in lengths.items():
            path = own.layout.paths[name]
            place = own.layout.places.get(path)
            if place is None:
                found[path] = rows[name][each.index(max(each))]
            elif place.axis is None:
                found[path] = [row.narrow(axis, 0, length) for row, length in zip(rows[name], each, strict=True)]
        for path, name in own.padding.masks.items() if own.padding else ():
            each = lengths[name][1] if name in lengths else []
            if len(set(each)) > 1:
                mask = torch.arange(max(each)) < torch.tensor(each)[:, None]
                found[path] = mask.long().to(rows[name].device)
        return found

    def _as_given(self, path: ArgumentPath, time: Tensor) -> Tensor:
        """Whole times as fractions where the pipeline gives them so."""
        recorded = self.conventions.layout.known.get(path)
        fractions = isinstance(recorded, Tensor) and recorded.is_floating_point()
        return time.to(recorded.dtype) if fractions and not time.is_floating_point() else time

    def _cast(self, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        """In the network's type, unless the pipeline gives it in single precision."""
        if not value.is_floating_point():
            return value
        recorded = self.conventions.layout.known.get(self.conventions.layout.paths.get(name))
        first = recorded[0] if isinstance(recorded, list) else recorded
        return value.to(first.dtype if isinstance(first, Tensor) and first.dtype == torch.float32 else dtype)

    def _output(self, output: Any) -> Tensor:
        first = primary(output)
        return self.conventions.from_output.cut(torch.stack(first) if isinstance(first, list) else first)

    def as_latents(self, predictions: Tensor) -> Tensor:
        """[B, *shape] in float32, in the process's sign; 0 for latents that are given."""
        latents, given = self.conventions.from_output(predictions).float(), self.conventions.given
        return latents if given is None else latents.masked_fill(given, 0)

    def finished(self, latents: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """Sampled latents with those that are given, which sampling leaves as noise."""
        own = self.conventions
        if own.given is None:
            return latents
        return torch.where(own.given, conditioning[path_name(own.latents)].to(latents), latents)

    def combined(self, unguided: Tensor, wanted: Tensor, scale: float) -> Tensor:
        """The guided prediction [B, *shape] of two such predictions."""
        own = self.conventions
        if own.guidance is None or own.guidance.renormalise == "none":
            return unguided + scale * (wanted - unguided)
        return own.from_rule(combine(own.to_rule(unguided), own.to_rule(wanted), scale, own.guidance.renormalise))
