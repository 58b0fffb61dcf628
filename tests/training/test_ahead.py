"""Values that are computed ahead are those of the function, and no more of them than said."""

import subprocess
import sys
import threading

import pytest

from penchant.errors import DataError
from penchant.training.ahead import AHEAD, Ahead


@pytest.fixture
def ahead_of():
    made = []

    def build(function, **options):
        made.append(Ahead(function, **options))
        return made[-1]

    yield build
    for ahead in made:
        ahead.close()


@pytest.mark.parametrize("number", [0, 1, AHEAD, 5])
def test_any_order_of_steps_gives_the_values_of_the_function(ahead_of, number):
    ahead = ahead_of(lambda step: step**2, ahead=number)
    for step in (0, 1, 2, 2, 0, 1, 40, 41, 43, 7, 8):
        assert ahead(step) == step**2


def test_the_next_steps_are_computed_while_nobody_waits_and_no_more_of_them(ahead_of):
    begun, done = [], threading.Event()

    def function(step):
        begun.append(step)
        if step == 4 + AHEAD:
            done.set()
        return step

    ahead = ahead_of(function)
    assert ahead(4) == 4
    assert done.wait(timeout=60)
    assert begun == [4, *range(5, 5 + AHEAD)]
    assert ahead(4) == 4 and begun.count(5) == 1, "what lies near is kept when a step is asked for again"


def test_an_error_comes_out_at_its_own_step_and_the_others_go_on(ahead_of):
    def function(step):
        if step == 2:
            raise DataError("row 7: no image, got 0 bytes.")
        return step

    ahead = ahead_of(function)
    assert [ahead(0), ahead(1)] == [0, 1]
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            ahead(2)
        assert str(caught.value) == "row 7: no image, got 0 bytes."
    assert ahead(3) == 3


def test_closing_ends_the_thread_and_leaves_what_has_not_begun(ahead_of):
    begun, go_on = [], threading.Event()

    def function(step):
        begun.append((step, threading.current_thread()))
        if step == 1:
            go_on.wait(timeout=60)
        return step

    ahead = ahead_of(function, ahead=9)
    assert ahead(0) == 0
    timer = threading.Timer(0.1, go_on.set)
    timer.start()
    ahead.close()
    timer.join()
    assert len(begun) <= 2 and not begun[0][1].is_alive()
    assert ahead(3) == 3, "it can be asked again"
    assert begun[-1][1] is not begun[0][1]


def test_a_process_that_fails_ends_at_once():
    program = (
        "import time\n"
        "from penchant.training.ahead import Ahead\n"
        "ahead = Ahead(lambda step: time.sleep(0.1))\n"
        "ahead(0)\n"
        "raise SystemExit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=300, check=False).returncode == 7
