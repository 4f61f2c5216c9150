"""Threads that work ahead: order, exceptions, and that nothing of them stays."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from archivestream.prefetch import Prefetcher, Workers


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("archivestream-")]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    assert not ours()
    yield
    gc.collect()
    for thread in ours():
        thread.join(5)
    assert not ours()


@pytest.fixture(params=[None, 1, 3])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers | None]:
    workers = None if request.param is None else Workers(request.param)
    yield workers
    if workers is not None:
        workers.stop()


def test_results_come_in_order(workers: Workers | None) -> None:
    def slow_at_times(i: int) -> int:
        time.sleep(0.01 * (i % 3 == 0))
        return i * i

    assert [*Prefetcher(slow_at_times, range(30), workers, ahead=5)] == [i * i for i in range(30)]
    assert [*Prefetcher(slow_at_times, [], workers, ahead=5)] == []


def test_results_come_as_they_are_ready() -> None:
    workers = Workers(2)
    gate = threading.Event()

    def first_waits(i: int) -> int:
        if i == 0:
            gate.wait()
        return i

    results = Prefetcher(first_waits, range(10), workers, ahead=4, in_order=False)
    assert sorted(next(results) for _ in range(9)) == [*range(1, 10)]
    gate.set()
    assert [*results] == [0]
    workers.stop()


def test_no_more_is_taken_than_asked_for(workers: Workers | None) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    results = Prefetcher(lambda i: i, items(), workers, ahead=4)
    assert len(taken) == (1 if workers is None else 4)
    assert [next(results) for _ in range(10)] == [*range(10)]
    assert len(taken) == (10 if workers is None else 14)
    results.close()
    with pytest.raises(StopIteration):
        next(results)
    assert len(taken) <= 14


def test_an_exception_stands_in_the_place_of_its_result(workers: Workers | None) -> None:
    def odd_ones_fail(i: int) -> int:
        if i % 2:
            raise KeyError(i)
        return i

    results = Prefetcher(odd_ones_fail, range(6), workers, ahead=3)
    got: list[Any] = []
    for _ in range(6):
        try:
            got.append(next(results))
        except KeyError as error:
            got.append(error.args)
    assert got == [0, (1,), 2, (3,), 4, (5,)]


def test_a_failing_iterable_fails_in_the_thread_of_the_caller(workers: Workers | None) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        [*Prefetcher(lambda i: i, items(), workers, ahead=2)]


def test_closing_calls_off_what_has_not_begun_and_waits_for_the_rest() -> None:
    workers = Workers(2)
    done: list[int] = []
    begun = threading.Barrier(3)

    def work(i: int) -> int:
        if i < 2:
            begun.wait()
        time.sleep(0.1)
        done.append(i)
        return i

    results = Prefetcher(work, range(50), workers, ahead=20)
    begun.wait()
    results.close()
    assert sorted(done) == [0, 1]
    time.sleep(0.05)
    assert sorted(done) == [0, 1]
    # The threads are there for the next one.
    assert [*Prefetcher(lambda i: i, range(5), workers)] == [*range(5)]
    workers.stop()
    assert not ours()


def test_closing_ends_the_iteration_of_another_thread_that_waits() -> None:
    workers = Workers(1)
    gate, begun = threading.Event(), threading.Event()

    def work(i: int) -> int:
        begun.set()
        gate.wait(20)
        return i

    results = Prefetcher(work, range(9), workers, ahead=2)
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append([*results]))
    waiting.start()
    begun.wait()
    time.sleep(0.05)
    threading.Timer(0.1, gate.set).start()
    results.close()
    waiting.join(20)
    assert got in ([[]], [[0]])
    workers.stop()


def test_dropped_threads_end() -> None:
    workers = Workers(4)
    assert len(ours()) == 4
    del workers


def test_the_timeout() -> None:
    workers = Workers(1)
    gate = threading.Event()
    results = Prefetcher(lambda i: gate.wait() and i, range(3), workers, ahead=2, timeout=0.05)
    with pytest.raises(TimeoutError, match=r"0\.05 seconds"):
        next(results)
    with pytest.raises(TimeoutError):
        next(results)
    gate.set()
    assert [*results] == [0, 1, 2]
    gate.clear()
    results = Prefetcher(lambda i: gate.wait() and i, range(3), workers, ahead=2, timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    results.close()  # does not wait for what may never end
    workers.stop(0)
    gate.set()


def test_what_a_thread_begins_with() -> None:
    numbers: list[int] = []
    workers = Workers(3, numbers.append)
    barrier = threading.Barrier(3)
    assert [*Prefetcher(lambda i: (barrier.wait(), i)[1], range(3), workers, ahead=3)] == [0, 1, 2]
    assert sorted(numbers) == [0, 1, 2]
    workers.stop()

    def fail(number: int) -> None:
        raise RuntimeError(f"thread {number} cannot begin")

    workers = Workers(1, fail)
    with pytest.raises(RuntimeError, match="thread 0 cannot begin"):
        next(Prefetcher(lambda i: i, range(3), workers))
    workers.stop()


def test_idle_time_is_counted() -> None:
    workers = Workers(2)
    results = Prefetcher(lambda i: i, range(40), workers, ahead=2)
    for _ in results:
        time.sleep(0.005)
    assert 0.05 < workers.idle_seconds < 4
    assert results.waited < 0.2
    workers.stop()


def test_a_forked_process_is_told() -> None:
    workers = Workers(1)
    results = Prefetcher(lambda i: i, range(40), workers, ahead=2)
    next(results)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            next(results)
        except RuntimeError as error:
            code = 0 if "parent process" in str(error) else 2
        results.close()
        workers.stop()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [*results] == [*range(1, 40)]
    workers.stop()


SCRIPT = """
import sys, threading, time
from archivestream.prefetch import Prefetcher, Workers
workers = Workers(2)
def work(i):
    time.sleep(0.05 if i < 4 else 60)
    return i
results = Prefetcher(work, range(100), workers, ahead=8)
print(next(results), flush=True)
"""


def test_the_interpreter_exits_with_work_under_way() -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("60", "0.3")], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
    assert time.monotonic() - started < 4  # the longest wait for threads that do not end is longer


def test_an_interrupt_is_answered_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + "for _ in range(9): next(results)\n"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=25)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors


def closes(results: Prefetcher[Any, Any]) -> bool:
    """Whether `close` comes to an end."""
    closing = threading.Thread(target=results.close, daemon=True)
    closing.start()
    closing.join(20)
    return not closing.is_alive()


def test_an_interrupt_before_a_job_is_submitted() -> None:
    """What no thread was asked for is not waited for."""
    workers = Workers(2)
    results = Prefetcher(lambda i: i, range(100), workers, ahead=4)
    assert next(results) == 0

    def interrupted(job: object) -> None:
        raise KeyboardInterrupt

    workers.submit = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        next(results)
    del workers.submit
    assert closes(results)
    workers.stop()


def test_interrupts_at_any_time() -> None:
    """Ctrl-C between any two steps of whoever asks: closing ends, and so do the threads."""
    workers = Workers(2)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    end = time.monotonic() + 2
    interrupted = 0
    try:
        while time.monotonic() < end:
            results = Prefetcher(lambda i: i, range(10**9), workers, ahead=8)
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.002))
                while True:
                    next(results)
            except KeyboardInterrupt:
                interrupted += 1
            assert closes(results)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 10
    workers.stop()


@pytest.mark.parametrize("in_order", [True, False])
def test_another_thread_closes_at_any_time(in_order: bool) -> None:
    workers = Workers(4)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    failed: list[BaseException] = []

    def ask(results: Prefetcher[int, int]) -> None:
        try:
            for _ in results:
                pass
        except BaseException as error:
            failed.append(error)

    try:
        for _ in range(300):
            results = Prefetcher(lambda i: i, range(10**9), workers, ahead=64, in_order=in_order)
            asking = threading.Thread(target=ask, args=[results], daemon=True)
            asking.start()
            results.close()
            asking.join(20)
            assert not asking.is_alive()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []
    workers.stop()
