"""What a model takes in memory whatever the run does with it: weights by part, and passes of any number of samples."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from torch import nn

from visalign.generators.encoding_size import numbers_of_latents, numbers_of_prompt
from visalign.generators.files.gguf_files import packed_size
from visalign.generators.hardware.activations import Activations
from visalign.generators.hardware.quantization import quantizable
from visalign.generators.hardware.weightless import Weightless
from visalign.jobs.memory_beside import SampleSizes
from visalign.parallel.division import Division, division


class Held(NamedTuple):
    """Bytes of weights: the denoiser's frozen ones, those that are trained, and what is frozen beside.

    packed: of frozen ones that stay as they are packed in a GGUF file, which `frozen` is without.
    roundable: numbers in frozen layers that can be quantised; roundable_in_block: in the block that has most of them.
    block: numbers in the largest of the repeated blocks. largest: bytes of the largest tensor that is trained.
    frozen_part, trained_part: what one process holds of them where several divide the network, else the same.
    """

    frozen: int
    packed: int
    trained: int
    roundable: int
    roundable_in_block: int
    block: int
    largest: int
    text_encoders: int
    vae: int
    frozen_part: int
    trained_part: int


@dataclass
class PassSizes:
    """What passes of any number of samples take. Two numbers are measured, others lie on their line: every tensor
    either has a row for each sample or none."""

    model: Weightless
    division: Division = field(default_factory=division)
    _trained: dict[int, Activations] = field(default_factory=dict)
    _sampled: dict[int, int] = field(default_factory=dict)
    _coded: dict[bool, tuple[int, int]] = field(default_factory=dict)

    def training(self, rows: int, checkpointing: bool) -> int:
        """Bytes of a pass with gradients until its backward is done."""
        found = self._at(rows, self._trained, self.model.activations)
        return found if isinstance(found, int) else found.of(checkpointing)

    def sampling(self, rows: int) -> int:
        """The most bytes of a pass without gradients."""
        return self._at(rows, self._sampled, self.model.sampling)

    def _at(self, rows: int, known: dict, measure):
        if self.model.generator.sources is not None:  # such pipelines take one prompt at a time
            known.setdefault(1, measure(self.model.call(1)))
            return _times(known[1], rows)
        if rows not in known and len(known) < 2:
            known[rows] = measure(self.model.call(rows))
        if rows in known:
            return known[rows]
        (one, first), (two, second) = list(known.items())[:2]
        return _on_line(first, second, (rows - one) / (two - one))

    def coding(self, tiled: bool) -> tuple[int, int]:
        """Of encoding and of decoding one sample."""
        if tiled not in self._coded:
            self._coded[tiled] = self.model.coding(tiled)
        return self._coded[tiled]

    @cached_property
    def roundable_parts(self) -> dict[str, int]:
        """Numbers that can be quantised in each frozen part."""
        generator = self.model.generator
        return {name: roundable(part) for name, part in generator.pipeline.components.items()
                if isinstance(part, nn.Module) and name not in generator.networks()}

    @cached_property
    def sample(self) -> SampleSizes:
        generator = self.model.generator
        return SampleSizes(4 * numbers_of_latents(generator), 4 * numbers_of_prompt(generator))

    @cached_property
    def held(self) -> Held:
        generator = self.model.generator
        vae = generator.pipeline.vae
        texts = sum(held_by(part) for part in generator.frozen_modules() if part is not vae)
        denoiser = generator.denoiser
        blocks: Counter[tuple[str, str]] = Counter()
        for network in generator.networks().values():
            for name, layer in quantizable(network).items():
                if not layer.weight.requires_grad:
                    blocks[tuple(name.split(".")[:2])] += layer.weight.numel()
        trained = [p.numel() * 4 for p in denoiser.parameters() if p.requires_grad]
        numbers, packed = packed_size(self.model.checkpoint.denoiser_file)
        frozen = held_by(denoiser) - numbers * self.model.held.itemsize
        parts = _parts_held(denoiser, self.division) if self.division.weights > 1 else (frozen, sum(trained))
        return Held(frozen, packed, sum(trained), sum(blocks.values()), max(blocks.values(), default=0),
                    _largest_block(denoiser), max(trained), texts, held_by(vae), *parts)


def roundable(part: nn.Module) -> int:
    """Numbers in the layers of a part that can be quantised."""
    return sum(layer.weight.numel() for layer in quantizable(part).values())


def _parts_held(network: nn.Module, division: Division) -> tuple[int, int]:
    """Bytes of frozen and of trained weights that one process holds; buffers are whole."""
    frozen = sum(buffer.numel() * buffer.element_size() for buffer in network.buffers())
    frozen += sum(division.part(p) * p.element_size() for p in network.parameters() if not p.requires_grad)
    return frozen, sum(division.part(p) * 4 for p in network.parameters() if p.requires_grad)


def _largest_block(network: nn.Module) -> int:
    """Numbers in the largest of a network's repeated blocks."""
    return max((sum(p.numel() for p in block.parameters()) for blocks in network.modules()
                if isinstance(blocks, nn.ModuleList) for block in blocks), default=0)


def _parts(value) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else (value.kept, value.with_checkpointing, value.recomputed)


def _made(value, numbers: list[int]):
    return numbers[0] if isinstance(value, int) else Activations(*numbers)


def _times(value, rows: int):
    return _made(value, [each * rows for each in _parts(value)])


def _on_line(first, second, place: float):
    return _made(first, [round(a + (b - a) * place) for a, b in zip(_parts(first), _parts(second), strict=True)])


def held_by(module: nn.Module, trained: bool = False) -> int:
    """Bytes of a module's weights and buffers; trained: of those that are, else of the others."""
    tensors = [p for p in module.parameters() if p.requires_grad == trained] + ([] if trained else
                                                                                list(module.buffers()))
    return sum(each.numel() * each.element_size() for each in tensors)
