"""Numbers that name their own position: what became of them is read exactly."""

import pytest
import torch

from visalign.generators.observe.latents import BASE, by_axis, probes, read_probes, selection


@pytest.mark.parametrize("count", [1, 5, BASE, BASE + 1, 20_000])
def test_a_permutation_with_scale_and_offset_is_read_back(count):
    rng = torch.Generator().manual_seed(count)
    index = torch.randperm(count, generator=rng)
    scale, offset = torch.rand(count, generator=rng) + 0.5, torch.randn(count, generator=rng)
    reading = read_probes([probe[index] * scale + offset for probe in probes(count)])
    assert torch.equal(reading.index, index)
    torch.testing.assert_close(reading.scale.float(), scale, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(reading.offset.float(), offset)


def test_half_precision_holds_every_digit():
    count = BASE**2 + 3
    index = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read_probes([probe[index].bfloat16() for probe in probes(count)]).index, index)


def test_what_does_not_come_from_the_sample_is_marked():
    seen = [torch.cat([probe, torch.tensor([3.0, 4.0])]) for probe in probes(6)]
    assert read_probes(seen).index.tolist() == [0, 1, 2, 3, 4, 5, -1, -1]


def test_a_mixture_of_elements_is_no_selection():
    assert read_probes([probe + probe.roll(1) for probe in probes(300)]) is None


def test_scales_that_differ_from_probe_to_probe_are_taken_out():
    factors = [1.0, 0.5, 0.25, 0.3]
    seen = [(probe * factor).bfloat16() for probe, factor in zip(probes(100), factors, strict=True)]
    assert torch.equal(read_probes(seen, factors).index, torch.arange(100))


def test_a_selection_keeps_fixed_elements_from_each_sample():
    pick = selection((2, 2), torch.tensor([1, -1, 0, -1]), (2,), torch.device("cpu"), sign=-1.0)
    samples = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    values = torch.tensor([[[9.0, 10.0], [9.0, 11.0]], [[9.0, 12.0], [9.0, 13.0]]])
    assert pick(samples, values).tolist() == [[[-2.0, 10.0], [-1.0, 11.0]], [[-4.0, 12.0], [-3.0, 13.0]]]


def test_statistics_are_kept_along_the_axes_where_they_differ():
    by_channel = torch.tensor([1.0, 2.0]).view(2, 1, 1).expand(2, 3, 4)
    assert by_axis(by_channel.flatten().double(), (2, 3, 4)).shape == (1, 2, 1, 1)
    assert by_axis(torch.full((24,), 0.5).double(), (2, 3, 4)).flatten().tolist() == [0.5]


def test_what_is_picked_from_the_end_of_an_output_is_found_there_whatever_comes_before():
    pick = selection((2,), torch.tensor([7, 6]), (4, 2), torch.device("cpu"))
    assert pick.last == 1
    assert pick(torch.arange(14.0).view(1, 7, 2)).tolist() == [[13, 12]]
