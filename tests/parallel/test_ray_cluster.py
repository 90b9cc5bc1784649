"""A head that is not there, is none, or is named wrongly ends in one sentence, and soon."""

import importlib.util
import socket
import sys
import time

import pytest

from visalign.errors import UserError
from visalign.parallel.ray_cluster import check_ray, connect


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--engine ray needs the package ray: pip install 'visalign\\[ray\\]'"):
        check_ray("--engine ray")


@pytest.mark.parametrize("address, said", [
    ("127.0.0.1:1", "Ray address 127.0.0.1:1: cannot be reached"), ("ray://10.0.0.1:10001", "must be HOST:PORT"),
    ("somewhere", "must be HOST:PORT")])
def test_a_head_that_cannot_be_reached_is_named(address, said):
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=said):
        connect(address, wait=5)


def test_what_listens_and_is_no_head_is_given_up_in_time():
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as other:
        started = time.monotonic()
        with pytest.raises(UserError, match="does not answer as a Ray head within 0.5 s"):
            connect(f"127.0.0.1:{other.getsockname()[1]}", wait=0.5)
        assert time.monotonic() - started < 10
