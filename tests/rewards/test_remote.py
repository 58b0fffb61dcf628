"""Scorers outside of this process: a real server on loopback and a real child, behaving and misbehaving."""

import base64
import io
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from PIL import Image

from penchant.errors import ConfigError, RewardError
from penchant.protocols import Reward
from penchant.rewards._child import child_of
from penchant.rewards.http import Http
from penchant.rewards.subprocess import Subprocess
from penchant.runs.rewards import reward_of

SCORER = """
import base64, io, json, os, sys, time
from PIL import Image
for line in sys.stdin:
    asked = json.loads(line)
    word = asked["prompts"][0]
    if word == "die":
        sys.exit("out of memory")
    if word.startswith("die once ") and not os.path.exists(word[9:]):
        open(word[9:], "w").close()
        sys.exit(3)
    if word == "sleep":
        time.sleep(30)
    pictures = [Image.open(io.BytesIO(base64.b64decode(text))) for text in asked["images"]]
    scores = [p.getpixel((0, 0))[0] + len(prompt) for p, prompt in zip(pictures, asked["prompts"])]
    print(json.dumps({"scores": scores}), flush=True)
"""


def images(*red):
    batch = torch.zeros(len(red), 3, 4, 5)
    batch[:, 0] = torch.tensor(red)[:, None, None] / 255
    return batch


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):  # noqa: N802
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        status, body, pause = self.server.script.pop(0) if self.server.script else (200, None, 0.0)
        time.sleep(pause)
        if body is None:
            pictures = [Image.open(io.BytesIO(base64.b64decode(text))) for text in asked["images"]]
            assert {picture.size for picture in pictures} == {(5, 4)}
            scores = [p.getpixel((0, 0))[0] + len(t) for p, t in zip(pictures, asked["prompts"], strict=True)]
            body = json.dumps({"scores": scores}).encode()
        self.send_response(status)
        if self.server.told:
            self.send_header("Content-Length", str(self.server.told.pop(0)))
        self.end_headers()
        for piece in body if isinstance(body, list) else [body]:
            try:
                self.wfile.write(piece)
                self.wfile.flush()
            except OSError:  # the client has given up
                return
            time.sleep(0.05 if isinstance(body, list) else 0)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def running():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.script, server.told = [], [], []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server(running):
    running.asked.clear()
    running.script.clear()
    running.told.clear()
    return running


def http(server, **options):
    url = f"http://127.0.0.1:{server.server_port}/score"
    return Http(**{"url": url, "name": "mine", "wait": 0.0, "timeout": 20.0, **options})


def refusal(reward, *prompts):
    with pytest.raises(RewardError) as caught:
        reward(images(*range(len(prompts))), prompts)
    return str(caught.value)


def test_a_server_scores_in_batches_and_in_order(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # no proxy stands between us and this machine
    scores = http(server, batch_size=2)(images(10, 20, 30, 40, 50), ["a", "bb", "", "", "ccc"])
    assert scores.tolist() == [11, 22, 30, 40, 53]
    assert [asked["prompts"] for asked in server.asked] == [["a", "bb"], ["", ""], ["ccc"]]
    assert isinstance(http(server), Reward)
    assert http(server)(torch.zeros(0, 3, 4, 5), []).shape == (0,)


def test_a_busy_server_is_asked_again(server, caplog):
    server.script += [(503, b"busy", 0.0), (429, b"later", 0.0)]
    assert http(server)(images(7), ["a"]).tolist() == [8]
    assert len(server.asked) == 3
    assert "answers 503 Service Unavailable; asked again in 0 s" in caplog.text


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (
            (200, b'{"scores": [1, NaN]}', 0),
            "scores must be finite numbers, got nan for image 2 of 2. Look at",
        ),
        (
            (200, b'{"scores": [1, ' + b"9" * 400 + b"]}", 0),
            "scores must be finite numbers, got 999999999999999999...9999999999999999999 for image 2 of 2.",
        ),
        ((200, b'{"scores": [1, null]}', 0), "scores must be finite numbers, got None for image 2 of 2."),
        ((200, b'{"scores": [1]}', 0), "wrong number of scores, got 1 for 2 images. The scorer must answer"),
        ((200, b"<html>", 0), """must answer with JSON such as {"scores": [0.5]}, got '<html>'."""),
        ((200, b"[1, 2]", 0), "the answer must have a list 'scores', got '[1, 2]'."),
        ((200, b'{"error": "no such model"}', 0), "the scorer reports: 'no such model'."),
        ((404, b"", 0), "answers 404 Not Found. Check the address and what the scorer logs."),
        ((200, b"x" * 5_000_000, 0), "too long an answer, got more than 4194304 bytes."),
    ],
)
def test_a_wrong_answer_is_named_at_once(server, script, sentence):
    server.script.append(script)
    assert refusal(http(server), "a", "b").startswith(f"reward mine: {http(server).url}: {sentence}")
    assert len(server.asked) == 1


@pytest.mark.parametrize("slow", [(200, b"{}", 0.5), (200, [b" "] * 20, 0.0)], ids=["silent", "trickling"])
def test_a_slow_server_is_left_after_its_time(server, slow):
    server.script += [slow, slow]
    assert refusal(http(server, timeout=0.2, retries=1), "a", "b") == (
        f"reward mine: {http(server).url}: no answer within 0.2 s for 2 images, asked 2 times. Start the "
        "scorer, or raise timeout, retries or wait."
    )


def test_an_answer_that_is_cut_off_is_asked_for_again(server, caplog):
    server.script += [(200, b'{"scores": [', 0.0)]
    server.told += [100]
    assert http(server)(images(7), ["a"]).tolist() == [8]
    assert "no answer (IncompleteRead(12 bytes read, 88 more expected)); asked again in 0 s" in caplog.text
    server.script += [(200, b'{"scores": [5]}', 0.0)]
    server.told += [15]
    assert http(server)(images(7), ["a"]).tolist() == [5]
    assert len(server.asked) == 3


def test_a_length_that_is_none_is_not_believed(server):
    server.script += [(200, b'{"scores": [5]}', 0.0)]
    server.told += ["9" * 5000]
    assert http(server)(images(7), ["a"]).tolist() == [5]
    assert len(server.asked) == 1


def test_a_server_that_is_down_is_named(server):
    dead = http(server, url="http://127.0.0.1:9/", retries=1)
    assert refusal(dead, "a").startswith("reward mine: http://127.0.0.1:9/: no answer (")
    assert "asked 2 times" in refusal(dead, "a")


def child(script, **options):
    return Subprocess(**{"command": [sys.executable, "-c", script], "name": "mine", "retries": 0, **options})


@pytest.fixture
def scorer():
    yield child(SCORER, batch_size=2)
    child_of((sys.executable, "-c", SCORER)).stop()


def test_a_child_is_kept_and_scores_in_order(scorer):
    first = scorer(images(10, 20, 30), ["a", "bb", ""])
    process = child_of(tuple(scorer.command))._process
    assert first.tolist() == [11, 22, 30]
    assert scorer(images(1), ["abc"]).tolist() == [4]
    assert child_of(tuple(scorer.command))._process is process
    assert isinstance(scorer, Reward)


def test_the_last_answer_of_a_child_needs_no_line_break():
    once = child("import sys; input(); sys.stdout.write('{\"scores\": [3]}')")
    assert once(images(5), ["a"]).tolist() == [3]


def test_a_child_that_dies_is_started_anew_and_its_last_words_are_shown(scorer, tmp_path):
    again = child(SCORER, retries=1)
    assert again(images(5), [f"die once {tmp_path}/x"]).tolist() == [5 + len(f"die once {tmp_path}/x")]
    last_words = "the program ended (exit code 1: out of memory), asked 1 times. Run the program by hand"
    assert last_words in refusal(scorer, "die")
    assert scorer(images(5), ["a"]).tolist() == [6]


def test_a_child_that_hangs_is_ended(scorer):
    hasty = child(SCORER, timeout=0.3)
    assert hasty(images(5), ["a"]).tolist() == [6]  # the first answer has a time-out of its own
    assert "no answer in time for 1 images, asked 1 times" in refusal(hasty, "sleep")
    assert hasty(images(5), ["a"]).tolist() == [6]


def test_a_child_that_never_reads_a_long_question_is_ended():
    deaf = child("import time; time.sleep(30)", start_timeout=0.5)
    noise = torch.rand(1, 3, 400, 400, generator=torch.Generator().manual_seed(0))  # more than a pipe holds
    with pytest.raises(RewardError, match="no answer in time for 1 images"):
        deaf(noise, ["a"])


def test_a_child_behind_a_wrapper_is_ended_with_it(tmp_path):
    script = f'{sys.executable} -c \'import os, time; open("{tmp_path}/pid", "w").write(str(os.getpid()))'
    behind = Subprocess(
        command=["bash", "-c", script + "; time.sleep(60)'; true"],
        name="mine",
        timeout=3.0,
        start_timeout=3.0,
        retries=0,
    )
    start = time.monotonic()
    assert "no answer in time for 1 images" in refusal(behind, "a")
    assert time.monotonic() - start < 20
    while time.monotonic() - start < 20:
        try:
            os.kill(int((tmp_path / "pid").read_text()), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the program behind the wrapper still runs")


def test_a_child_that_ends_in_the_middle_of_its_answer_is_started_anew(tmp_path, caplog):
    script = f"""
import os, sys
for line in sys.stdin:
    if not os.path.exists({str(tmp_path / "once")!r}):
        open({str(tmp_path / "once")!r}, "w").close()
        sys.stdout.write('{{"scores": [1,')
        sys.stdout.flush()
        os._exit(4)
    print('{{"scores": [5]}}', flush=True)
"""
    again = child(script, retries=1)
    assert again(images(1), ["a"]).tolist() == [5]
    assert "the program ended (exit code 4)" in caplog.text
    child_of(tuple(again.command)).stop()


def test_a_child_that_answers_twice_is_refused_before_its_scores_are_shifted():
    script = """
import json, sys
for line in sys.stdin:
    answer = json.dumps({"scores": [len(prompt) for prompt in json.loads(line)["prompts"]]})
    sys.stdout.write(2 * (answer + chr(10)))
    sys.stdout.flush()
"""
    twice = child(script, batch_size=1)
    assert refusal(twice, "a", "bb", "ccc", "dddd").startswith(
        f"{sys.executable}: must write one line for each question, got another one after its answer: "
        """'{"scores": ["""
    )


def test_a_child_that_ends_after_each_answer_is_started_anew():
    once = child("import sys; input(); print(chr(123) + '\"scores\": [3]}')", batch_size=1, retries=1)
    assert once(images(1, 2, 3), ["a", "b", "c"]).tolist() == [3, 3, 3]


def test_a_child_that_talks_nonsense_or_is_not_there():
    wordy = child("print('loading weights', flush=True); input()")
    assert "must answer with JSON such as" in refusal(wordy, "a")
    child_of(tuple(wordy.command)).stop()
    lost = Subprocess(command=["/no/such/program"], name="mine")
    assert refusal(lost, "a") == (
        "/no/such/program: cannot be started (No such file or directory). Check the command and the folder."
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"kind": "http", "name": "a", "url": "file:///etc/passwd"},
            ".url: must begin with http:// or https://",
        ),
        (
            {"kind": "http", "name": "a", "url": "http://h/\u00e4"},
            ".url: must be ASCII without spaces, others as %XX, got 'http://h/\u00e4'.",
        ),
        (
            {"kind": "http", "name": "a", "url": "http://h", "batch_size": 0},
            ".batch_size: must be >= 1, got 0.",
        ),
        ({"kind": "http", "name": "a", "url": "http://h", "timeout": 0.0}, ".timeout: must be > 0, got 0.0."),
        ({"kind": "http", "name": "a", "url": "http://h", "retries": -1}, ".retries: must be >= 0, got -1."),
        ({"kind": "http", "name": "a", "url": "http://h", "wait": -1.0}, ".wait: must be >= 0, got -1.0."),
        ({"kind": "http", "url": "http://h"}, ": Http needs the option 'name'. Write `name: ...`"),
        (
            {"kind": "subprocess", "name": "a", "command": []},
            ".command: must be a list of at least 1, got [].",
        ),
        ({"kind": "subprocess", "name": "a", "command": "rm -rf"}, ".command: "),
        ({"kind": "subprocess", "name": "a", "command": ["x"], "batch_size": 0}, ".batch_size: must be >= 1"),
        ({"kind": "subprocess", "name": "a", "command": ["x"], "timeout": 0}, ".timeout: must be > 0"),
        ({"kind": "subprocess", "name": "a", "command": ["x"], "retries": -1}, ".retries: must be >= 0"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options, sentence):
    with pytest.raises(ConfigError) as caught:
        reward_of(options, where="run.yaml", place=["r"])
    assert str(caught.value).startswith(f"run.yaml: r{sentence}")


def test_a_revision_makes_another_version():
    assert Http(url="http://h", name="a", revision="2").version == "http://h 2"
    assert Subprocess(command=["a", "b"], name="x", revision="2").version == "a b 2"
