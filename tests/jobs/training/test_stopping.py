"""A run that is told to stop ends its step first."""

import signal
import threading

import pytest

from gopstream.jobs.training import stopping
from gopstream.jobs.training.stopping import stop_requests

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def own_handlers():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_nothing_else(number):
    before = signal.getsignal(number)
    with stop_requests() as request:
        assert request.number == 0
        signal.raise_signal(number)
        assert request.number == number
    assert signal.getsignal(number) is before


def test_the_same_thing_said_twice_at_once_is_said_once():
    with stop_requests() as request:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert request.number == signal.SIGTERM


def test_who_insists_is_heard(monkeypatch):
    monkeypatch.setattr(stopping, "_INSIST_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt), stop_requests():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is not stopping.StopRequest.hear


def test_what_the_caller_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_requests() as request:
        signal.raise_signal(signal.SIGHUP)
        assert request.number == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_thread_takes_no_signals():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def run():
        with stop_requests() as request:
            seen.append((request.number, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(0, before)]
