"""Signals: noted where something is at stake, an interruption elsewhere, and at once the second time."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from visalign.trainers import stopping
from visalign.trainers.stopping import Stopped, asked, heard, postponed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_interrupts_and_names_its_exit_code(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stop, heard():
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert stop.value.exit_code == 128 + number and signal.getsignal(number) is before and not asked()


def test_a_postponed_signal_comes_when_everything_is_whole():
    done = []
    with pytest.raises(Stopped), heard():
        with postponed():
            os.kill(os.getpid(), signal.SIGTERM)
            with postponed():
                done.append(asked())
            done.append("still whole")
        done.append("too late")
    assert done == [signal.SIGTERM, "still whole"]


def test_a_schedulers_warnings_are_no_second_signal_nor_is_sigterm_after_them(monkeypatch):
    monkeypatch.setattr(stopping, "_AGAIN", 0.0)
    done = []
    with pytest.raises(Stopped) as stop, heard(), postponed():
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
            done.append(asked())
    assert done == [signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM]
    assert stop.value.exit_code == 143


def test_only_the_main_thread_hears():
    found = []

    def work():
        with heard():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_a_second_signal_ends_at_once():
    code = """
import time
from visalign.trainers import stopping
from visalign.trainers.stopping import heard, postponed
with heard(), postponed():
    print("ready", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(1.3)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 130 and "again: at once" in said and "stopped at once" in said
