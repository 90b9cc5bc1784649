"""A signal ends a server once everything that was asked for is answered; whatever was queued then is not lost."""

import os
import re
import signal
import threading
import time

import httpx

from tests.programs import VISALIGN, Program
from tests.serving.served import served
from tests.serving.test_own_form import Brightness, noise, post, text_of


class Gated(Brightness):
    """Scores nothing until `open` is set."""

    open = threading.Event()

    def score_batch(self, samples):
        assert self.open.wait(60)
        return super().score_batch(samples)


def test_a_server_that_is_asked_to_stop_answers_what_is_queued():
    answers: list[httpx.Response] = []
    with served(Gated(name="slow"), batch=1) as url:
        threads = [threading.Thread(target=lambda i=i: answers.append(post(url, [{"image": text_of(noise(i))}])))
                   for i in range(5)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 60
        while "visalign_held_samples 5.0" not in httpx.get(f"{url}/metrics").text:
            assert time.monotonic() < until
            time.sleep(0.02)
        threading.Timer(0.3, Gated.open.set).start()  # after the server was asked to stop
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 5


def test_the_command_serves_until_a_signal(tmp_path):
    program = Program(VISALIGN, "reward", "serve", "sharpness", "--port", "0", output=tmp_path / "said")
    deadline = time.monotonic() + 200
    while not (ready := re.search(r"serving sharpness .* at (http://127.0.0.1:\d+)", program.text())):
        assert time.monotonic() < deadline and not program.ended(), program.text()
        time.sleep(0.05)
    assert post(ready[1], [{"image": text_of(noise(1))}]).json()["scores"][0]["sharpness"]["score"] > 0
    os.kill(program.pid, signal.SIGTERM)
    assert program.wait(60) == 0
    assert "stopped: every request that had come in was answered" in program.text()
