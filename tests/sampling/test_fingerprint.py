"""What an encoding depends on, as a hash."""

import torch
from torch import nn

from visalign.sampling import fingerprint
from visalign.sampling.fingerprint import fingerprint as of


def test_a_hash_is_the_same_however_many_numbers_are_summed_at_once(monkeypatch):
    network = nn.Conv2d(5, 4, 3)
    network.register_buffer("table", torch.randn(1, 40, 3))  # one row of many numbers
    network.register_buffer("flags", torch.tensor([True, False, True]))
    whole = of(network)
    monkeypatch.setattr(fingerprint, "AT_ONCE", 7)
    assert of(network) == whole
    for name in ("weight", "table"):
        kept = getattr(network, name).detach().clone()
        getattr(network, name).data.copy_(kept.flip(1))  # other columns, the same numbers
        assert of(network) != whole
        getattr(network, name).data.copy_(kept)
    assert of(network) == whole
