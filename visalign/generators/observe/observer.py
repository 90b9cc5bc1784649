"""Finding a pipeline's conventions from a few short calls, all but the first with its network replaced."""

import dataclasses
import hashlib
import json
import math
from typing import Any

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.observe.arguments import (
    ArgumentPath,
    Layout,
    argument_leaves,
    assumed_layout,
    layout_of,
    path_name,
    same,
)
from visalign.generators.observe.calling import LONGER, PipelineCall
from visalign.generators.observe.conventions import Conventions, VaeMap
from visalign.generators.observe.guidance import COARSE_TOLERANCE, GUIDANCE_TOLERANCE, GuidanceRule, fit_guidance
from visalign.generators.observe.keeping import keep_conventions, kept_conventions
from visalign.generators.observe.latents import Reading, Selection, by_axis, probes, read_probes, selection
from visalign.generators.observe.memory import remembered
from visalign.generators.observe.padding import find_padding
from visalign.generators.observe.proof import prove, prove_step
from visalign.generators.observe.running import ShortCalls, only
from visalign.generators.observe.times import TimeRule, fit_times
from visalign.generators.observe.watching import NetworkCall, SchedulerStep, primary

OBSERVED_SCALES = (3.0, 5.0)
"""Of the pipeline, at which its guidance is observed."""


_KNOWN: dict[str, Conventions] = {}
"""What was found in this process, by all that it depends on."""


def observed(pipeline, process, networks: dict[str, nn.Module], call: PipelineCall) -> Conventions:
    """The conventions of a pipeline at one shape. Raises UserError naming the one that is not understood."""
    key = identity(pipeline, call)
    known = _KNOWN.get(key) or kept_conventions(key)
    with remembered(pipeline, networks):
        found = _still_true(pipeline, process, networks, call, known) or \
            Observer(pipeline, process, networks, call).observe()
    if found is not _KNOWN.get(key):
        _KNOWN[key] = found
        keep_conventions(key, found)
    call.guidance, call.blank, call.off = found.guidance, found.blank, found.off
    return found


def _still_true(pipeline, process, networks: dict[str, nn.Module], call: PipelineCall,
                found: Conventions | None) -> Conventions | None:
    """Conventions found before if one short call is as they say, else None."""
    if found is None:
        return None
    calls = ShortCalls(pipeline, networks, call, found.off, found.template, found.template_rows)
    try:
        prove_step(calls, process, found)
    except (UserError, RuntimeError, LookupError, TypeError, ValueError, AttributeError):
        return None  # another pipeline's: whatever that led to, this one is observed anew
    return found


class Observer(ShortCalls):
    """Finds the conventions of one pipeline. process: of its scheduler."""

    def __init__(self, pipeline, process, networks: dict[str, nn.Module], call: PipelineCall):
        super().__init__(pipeline, networks, call, {})
        self.process = process
        self.guided_calls: list[NetworkCall] = []

    def observe(self) -> Conventions:
        self.first = self._real_step()
        self.off = self._switched_off()
        embedded = self._embedded()
        seen = self._probed()
        self.given = self._given(seen)
        guidance, place = (GuidanceRule("guidance_scale", embedded=True), 1) if embedded else self._guidance() \
            if self.call.guided_at_all else (None, 1)
        layout = self._layout()
        found = _assembled(self, seen, layout, embedded, guidance, place)
        prove(self, self.process, found)
        return dataclasses.replace(found, padding=find_padding(self, found, self.short, self.long))

    def _real_step(self) -> SchedulerStep:
        """A step with the network's own answer, of which the kind of output is learnt."""
        step = only(self.run([self.prompt], dict.fromkeys(self.call.guidance_names(), 1.0), stop_at=1))
        self.template, self.template_rows = step.calls[0].output, step.calls[0].rows()
        return step

    def _switched_off(self) -> dict[str, float]:
        """Options with which a step is one pass of one sample."""
        for value in (1.0, 0.0):
            options = dict.fromkeys(self.call.guidance_names(), value)
            if _rows(self.first_step([self.prompt], options)) == 1:
                return options
        raise UserError("its guidance cannot be switched off: a step is more than one pass of the network, whatever "
                        "the scale")

    def _embedded(self) -> dict[ArgumentPath, float]:
        """Arguments that are a multiple of the guidance scale, with the factor."""
        if "guidance_scale" not in self.off:
            return {}
        words = self.call.words(1, self.call.blank or "")  # some pipelines cannot be guided without
        steps = [self.first_step([self.prompt], self.off | {"guidance_scale": scale} | words)
                 for scale in OBSERVED_SCALES]
        two = [dict(argument_leaves(step.calls[0].arguments)) for step in steps]
        if two[0].keys() != two[1].keys():
            return {}
        found = {}
        for path in two[0]:
            if isinstance(two[0][path], Tensor) and not same(two[0][path], two[1][path]):
                low, high = (float(values[path].flatten()[0]) for values in two)
                ratio = OBSERVED_SCALES[1] / OBSERVED_SCALES[0]
                if two[0][path].numel() != 1 or not math.isclose(high, low * ratio, rel_tol=1e-2):
                    raise UserError(f"the argument {path_name(path)} depends on the guidance scale in a way that is "
                                    "not understood")
                found[path] = float(f"{high / OBSERVED_SCALES[1]:.3g}")
        return found

    def _guidance(self) -> tuple[GuidanceRule | None, int]:
        """The rule, and the place of the conditional prediction among the two of a step; None without guidance."""
        for blank in dict.fromkeys((self.call.blank, "")):
            for name in self.call.guidance_names():
                step = self.first_step([self.prompt], self.off | {name: OBSERVED_SCALES[0]} | self.call.words(1, blank))
                if _rows(step) == 2:
                    self.call.blank = blank
                    return self._fitted(name, blank)
                self._check_unguided(step)
        return None, 1

    def _check_unguided(self, step: SchedulerStep) -> None:
        """Raise UserError where a scale changes what the scheduler is given in a step that is not of two passes."""
        plain = self.first_step([self.prompt])
        if _rows(step) != 1 or not same(step.model_output, plain.model_output):
            raise UserError("its guidance is not made of two predictions of its denoiser; model.guidance=none goes on "
                            "without guidance")

    def _fitted(self, name: str, blank: str | None) -> tuple[GuidanceRule, int]:
        fits = []
        for scale in OBSERVED_SCALES:
            step = self.first_step([self.prompt], self.off | {name: scale} | self.call.words(1, blank))
            self.guided_calls = step.calls
            outputs = [part for call in step.calls for part in _parts(call.output, call.rows())]
            fits.append(fit_guidance((self.given(outputs[0])[0], self.given(outputs[1])[0]), step.model_output, scale))
        coarse = any(each.dtype in (torch.float16, torch.bfloat16) for each in (step.model_output, *outputs))
        most = COARSE_TOLERANCE if coarse else GUIDANCE_TOLERANCE
        if any(fit[-1] > most for fit in fits) or len({fit[:-1] for fit in fits}) > 1:
            raise UserError(f"its guidance combines two predictions in a way that is not understood ({fits[0][-1]:.1e} "
                            "is left over); model.guidance=none goes on without guidance")
        place, shift, rule, _ = fits[0]
        return GuidanceRule(name, shift, self.off[name], rule), place

    def _probed(self) -> list[SchedulerStep]:
        """Steps in which the network answers with probes and the scheduler returns probes."""
        sample = self.first.sample
        count = max(sample.numel(), *(each.numel() for each in _parts(self.template, self.template_rows)))
        content = probes(count)
        self.number = len(content)
        factors = [1.0]

        def answer(call):
            at = content[min(len(record_steps), self.number - 1)]
            return self.answer(call, lambda shape: _filled(at, shape))

        record_steps: list[SchedulerStep] = []

        def replace(step: SchedulerStep, number: int) -> Tensor:
            record_steps.append(step)
            factors.append(self._factor(number + 1))
            return _filled(content[min(number, self.number - 1)], sample.shape).to(sample)

        record = self.run([self.prompt], steps=max(self.number + 1, 8), answer=answer, replace=replace)
        self.factors, self.beside = factors, record.beside
        return record.steps

    def _given(self, steps: list[SchedulerStep]) -> Selection:
        """From the network's output [1, ...] to what the scheduler is given, in the process's sign."""
        outputs = read_probes([step.model_output for step in steps[:self.number]])
        if outputs is None or bool((outputs.index < 0).any()) or outputs.scale.abs().sub(1).abs().max() > 1e-3:
            raise UserError("what its scheduler is given is no selection of the network's output")
        self.picked = outputs.index
        self.output_shape = tuple(_parts(self.template, self.template_rows)[0].shape[1:])
        given = steps[0].model_output
        return Selection(tuple(given.shape), outputs.index.to(given.device), float(outputs.scale[0].sign()))

    def _factor(self, number: int) -> float:
        """By what the scheduler scales the network's input at its step of this number."""
        scheduler = self.pipeline.scheduler
        if not hasattr(scheduler, "scale_model_input") or number >= len(scheduler.timesteps):
            return 1.0
        return float(scheduler.scale_model_input(torch.ones(1), scheduler.timesteps[number]))

    def _layout(self) -> Layout:
        self.short, self.long = self.first_step([self.prompt]), self.first_step([LONGER])
        one, longer = self.short.calls[0].arguments, dict(argument_leaves(self.long.calls[0].arguments))
        layout = assumed_layout(one) if self.call.takes_sources else \
            layout_of(one, self.first_step([self.prompt] * 2).calls[0].arguments)
        others = [longer, *(dict(argument_leaves(call.arguments)) for call in self.guided_calls)]
        of_length = frozenset(path for path, value in argument_leaves(one) if path not in layout.places
                              and any(not same(value, other.get(path)) for other in others))
        return dataclasses.replace(layout, of_length=of_length)


def identity(pipeline, call: PipelineCall) -> str:
    """Names everything that a pipeline's conventions depend on: its configuration, its VAE's statistics, the call."""
    configs = {name: f"{type(part).__name__} {_settings(getattr(part, 'config', None))}"
               for name, part in sorted(pipeline.components.items())}
    digest = hashlib.sha256(json.dumps([type(pipeline).__name__, configs, _settings(pipeline.config)]).encode())
    asked = (call.shape, call.prompt_tokens, call.extra, call.blank, call.takes_sources, call.guided_at_all)
    digest.update(repr(asked).encode())
    for name, module in sorted(pipeline.components.items()):
        if isinstance(module, nn.Module):
            first = next(module.parameters(), None)
            digest.update(f"{name} {None if first is None else (first.dtype, first.device)}".encode())
            digest.update(b" without weights" * _is_blank(module))
    kind = pipeline.device.type
    digest.update(f"{torch.is_autocast_enabled(kind)} {torch.get_autocast_dtype(kind)}".encode())
    for name, statistic in pipeline.vae.named_buffers():
        digest.update(name.encode() + statistic.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _is_blank(module: nn.Module) -> bool:
    """Whether each of its weights is one number, so that what its answers say of padding is not true of the model."""
    return not any(any(parameter.stride()) for parameter in module.parameters())


def _settings(config: Any) -> str:
    """A configuration wherever it lies."""
    return str({key: value for key, value in config.items() if key != "_name_or_path"} if isinstance(config, dict)
               else config)


def _rows(step: SchedulerStep) -> int:
    return sum(call.rows() for call in step.calls)


def _parts(output: Any, rows: int) -> list[Tensor]:
    """The predictions of each of a call's samples, [1, ...] each."""
    first = primary(output)
    return [each[None] for each in first] if isinstance(first, list) else list(first.split(len(first) // rows))


def _filled(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    return values[:count].view(shape) if count <= len(values) else values.new_zeros(shape)


def _assembled(observer: Observer, steps: list[SchedulerStep], layout: Layout, embedded: dict[ArgumentPath, float],
               guidance: GuidanceRule | None, place: int) -> Conventions:
    number, size = observer.number, observer.first.sample.numel()
    path, reading, shape, as_list = _latents_argument(steps[1:number + 1], observer.factors[1:number + 1], size)
    companions = _companions(steps[0], observer.beside)
    times = _times(observer.process, steps, {path, *embedded, *companions})
    if len(observer.first.sample) != 1:
        raise UserError("its scheduler steps a video's frames as a batch, which is not supported")
    sample_shape = tuple(observer.first.sample.shape[1:])
    z, scale, offset, index, frames, arguments, options = _to_vae(observer, size)
    back = torch.empty_like(index)
    back[index] = torch.arange(len(index))
    device = observer.first.sample.device
    inside = torch.where(reading.index < 0, -1, back[reading.index.clamp(min=0)])
    given = (inside < 0).view(shape).to(device) if shape == z and bool((inside < 0).any()) else None
    return Conventions(
        shape=z, latents=path, as_list=as_list, layout=layout, times=times, embedded=embedded,
        companions=companions, guidance=guidance, given=given,
        wanted_place=place, to_network=selection(shape, inside, z, device),
        from_output=selection(z, observer.picked[index], observer.output_shape, device, observer.given.sign),
        to_rule=selection(sample_shape, back, z, device),
        from_rule=selection(z, index, sample_shape, device),
        vae=VaeMap(scale.to(device), offset.to(device), arguments, {**options, "generator": None}
                   if "generator" in options else options, frames),
        off=observer.off, template=observer.template, template_rows=observer.template_rows, blank=observer.call.blank)


def _latents_argument(steps: list[SchedulerStep], factors: list[float],
                      size: int) -> tuple[ArgumentPath, Reading, tuple, bool]:
    for path, value in argument_leaves(steps[0].calls[0].arguments):
        as_list = isinstance(value, list) and bool(value) and isinstance(value[0], Tensor)
        if not isinstance(value, Tensor) and not as_list:
            continue
        seen = [dict(argument_leaves(step.calls[0].arguments))[path] for step in steps]
        tensors = [each[0] if as_list else each for each in seen]
        if tensors[0].numel() < size or any(each.shape != tensors[0].shape for each in tensors):
            continue
        reading = read_probes(tensors, factors)
        if reading is not None and len(reading.index[reading.index >= 0].unique()) > size // 2:
            return path, reading, tuple(tensors[0].shape if as_list else tensors[0].shape[1:]), as_list
    raise UserError("none of its network's arguments is the noisy latents")


def _companions(step: SchedulerStep, beside: list[Tensor]) -> frozenset[ArgumentPath]:
    """Arguments that are further latents, which a copy of the scheduler steps (a video's sound)."""
    return frozenset(path for path, value in argument_leaves(step.calls[0].arguments) for other in beside[:1]
                     if isinstance(value, Tensor) and same(value, other.to(value.dtype)))


def _times(process, steps: list[SchedulerStep], others: set[ArgumentPath]) -> dict[ArgumentPath, TimeRule]:
    found = {}
    told = [dict(argument_leaves(step.calls[0].arguments)) for step in steps]
    for path, value in told[0].items():
        if path in others or all(same(value, each.get(path)) for each in told[1:]):
            continue
        if not isinstance(value, Tensor | float | int):
            raise UserError(f"the argument {path_name(path)} changes from step to step")
        found[path] = _time_rule(process, steps, [torch.as_tensor(each[path]) for each in told], path)
    return found


def _time_rule(process, steps: list[SchedulerStep], values: list[Tensor], path: ArgumentPath) -> TimeRule:
    shape = tuple(values[0].shape[1:])
    flat = torch.stack([value.double().flatten() for value in values])  # [steps, elements]
    moving = (flat != flat[:1]).any(0)
    told = flat[:, moving]
    if bool((told != told[:, :1]).any()):
        raise UserError(f"the argument {path_name(path)} depends on time in more than one way")
    given = told[:, 0]
    exact = values[0].dtype in (torch.float32, torch.float64) and bool((given != given.round()).any())
    constant = float(flat[0, ~moving][0]) if not moving.all() else 0.0
    fixed = None if moving.all() else ~moving.view(shape).to(values[0].device)
    if process.kind == "diffusion":
        if any(abs(float(value) - float(step.timestep)) > 1e-3 * max(1.0, abs(float(value)))
               for value, step in zip(given, steps, strict=True)):
            raise UserError(f"the argument {path_name(path)} is not the scheduler's time")
        return TimeRule(0.0, 1.0, None, shape, fixed, constant)
    times = torch.tensor([step.sigma for step in steps])
    fit = fit_times(times, given, exact)
    if fit is None:
        raise UserError(f"the argument {path_name(path)} depends on time in a way that is not understood")
    return TimeRule(*fit, shape, fixed, constant)


def _to_vae(observer: Observer, size: int) -> tuple:
    seen = [observer.decoded(values) for values in probes(size)]
    reading = _completed(read_probes([each[0] for each in seen]), seen[0][0].shape, size)
    if reading is None or not torch.equal(reading.index.sort().values, torch.arange(size)):
        raise UserError("what its VAE decodes is not the latents in another order, scaled and shifted")
    z, values = seen[0][0].shape, (reading.scale, reading.offset, reading.index)
    frames = z[0] if z[0] > 1 else None
    if frames is not None:  # a video's, as a batch: put beside the channels
        values = tuple(value.view(z).movedim(0, 1).flatten() for value in values)
        z = (1, z[1], frames, *z[2:])
    shape, (scale, offset, index) = tuple(z[1:]), values
    return shape, by_axis(scale, shape), by_axis(offset, shape), index, frames, *seen[0][1:]


def _completed(reading: Reading | None, z: tuple[int, ...], size: int) -> Reading | None:
    """With elements that the pipeline gives the VAE itself (a first frame) at the latents' unused places, in order.

    Their scale and offset are those of their channel; None where what is left does not fit.
    """
    if reading is None or len(reading.index) != size or bool((reading.index >= 0).all()):
        return reading if reading is not None and len(reading.index) == size else None
    given, unused = reading.index < 0, torch.ones(size, dtype=torch.bool)
    unused[reading.index[~given]] = False
    if int(unused.sum()) != int(given.sum()):
        return None
    index, channels = reading.index.clone(), torch.arange(size) // (size // z[1])
    index[given] = unused.nonzero().flatten()
    scale, offset = reading.scale.clone(), reading.offset.clone()
    for channel in range(z[1]):
        own = channels == channel
        known = (own & ~given).nonzero().flatten()[:1]
        scale[own & given], offset[own & given] = scale[known], offset[known]
    return Reading(index, scale, offset)
