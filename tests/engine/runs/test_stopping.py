"""Ctrl-C, SIGTERM and SIGHUP ask; a second Ctrl-C insists; what is being saved is saved."""

import os
import signal
import subprocess
import sys

import pytest

from distilplace.engine.runs.stopping import Stopping


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """Handlers of a program in a terminal, also where the tests run under nohup or in the background."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupts(number: int) -> bool:
    """Send the signal to this process; was KeyboardInterrupt raised?"""
    try:
        os.kill(os.getpid(), number)
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_handlers_before_come_back(number):
    before = signal.getsignal(number)
    stopping = Stopping()
    with stopping.listening():
        assert not stopping.requested
        assert not interrupts(number)
        assert stopping.requested
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_insists_but_not_while_something_is_saved(capfd):
    stopping = Stopping()
    with stopping.listening():
        assert not interrupts(signal.SIGINT)
        with stopping.saving():
            with stopping.saving():
                pass
            assert not any(interrupts(signal.SIGINT) for _ in range(3))
        assert interrupts(signal.SIGINT)
    said = capfd.readouterr().err
    assert said.count("stopping after this step") == 1
    assert said.count("saving; this run stops when that is done") == 3


def test_a_closing_session_sends_several_signals_and_only_asks():
    stopping = Stopping()
    with stopping.listening():
        assert not any(interrupts(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP))
        assert stopping.requested


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stopping = Stopping()
        with stopping.listening():
            assert not interrupts(signal.SIGHUP)
        assert not stopping.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_does_not_end_the_run():
    """Its progress bar would: every write to it fails."""
    program = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "from distilplace.engine.runs.stopping import Stopping\n"
        "stopping = Stopping()\n"
        "with stopping.listening():\n"
        "    Path(sys.argv[1]).write_text('ready')\n"
        "    while not stopping.requested: time.sleep(0.01)\n"
        "    print('a bar', file=sys.stderr, flush=True); print('a line', flush=True)\n"
        "    Path(sys.argv[1]).write_text('saved')"
    )
    import pty
    import tempfile
    import time
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "note"
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(note)], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        while not note.exists() or note.read_text() != "ready":
            assert process.poll() is None
            time.sleep(0.01)
        os.close(master)  # the window is closed
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=20) == 0
        assert note.read_text() == "saved"
