"""Files are replaced whole, locks exclude, errors are one line with the right status."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import options
import utils
from utils import Interrupted, UserError, locked, user_errors, write_atomically


@pytest.mark.parametrize("error", [OSError(28, "No space left"), Interrupted(2), MemoryError()])
@pytest.mark.parametrize("where", [(os, "fsync"), (Path, "replace")])
def test_a_write_that_is_cut_leaves_the_old_file_alone(tmp_path, monkeypatch, error, where):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(*where, Mock(side_effect=error))
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_what_replaces_a_file_is_on_the_disk_already(tmp_path, monkeypatch):
    path, events = tmp_path / "folder" / "file", []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda h: events.append(os.fstat(h).st_size) or sync(h))
    monkeypatch.setattr(Path, "replace", lambda a, b: events.append("renamed") or replace(a, b))
    write_atomically(path, b"content")
    assert events == [7, "renamed"] and path.read_bytes() == b"content"


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"new"


def test_a_lock_excludes_names_its_owner_and_goes(tmp_path):
    path = tmp_path / ".lock"
    path.write_text("a longer name of an owner that is dead " * 9)
    with locked(path, "the run"):
        assert path.read_text() == f"process {os.getpid()} on {utils.socket.gethostname()}"
        with pytest.raises(UserError, match=f"the run is in use by process {os.getpid()} "):
            locked(path, "the run").__enter__()
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), locked(path, "the run"):
        raise ZeroDivisionError
    assert not path.exists()


@pytest.mark.parametrize("again", [True, False])
def test_a_lock_on_a_file_that_was_replaced_meanwhile_is_none(tmp_path, monkeypatch, again):
    """Between opening and locking its owner removes the file; another process may make a new one,
    and would hold the lock on that."""
    path, real = tmp_path / ".lock", fcntl.flock

    def late(file, how):
        path.unlink()
        if again:
            path.write_text("process 1 on elsewhere")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="in use"):
        locked(path, "the run").__enter__()
    assert path.exists() == again


def test_a_lock_is_waited_for(tmp_path):
    path, seen, begun = tmp_path / ".lock", [], threading.Event()

    def other():
        begun.set()
        with locked(path, "the file", patience=30):
            seen.append("other")

    with ThreadPoolExecutor() as pool, locked(path, "the file"):
        pool.submit(other)
        assert begun.wait(30)
        with pytest.raises(UserError, match="in use"), locked(path, "the file", patience=0.2):
            pass
        seen.append("first")
    assert seen == ["first", "other"]


NO_MEMORY = "error: not enough memory .*: a smaller --batch_size or --num_channels needs less"


@pytest.mark.parametrize("error, status, message", [
    (UserError("no such thing"), 2, "error: no such thing"),
    (OSError(28, "No space left", "a/file"), 1, "error: No space left: a/file"),
    (OSError("odd"), 1, "error: odd"),
    (OSError(20, "Not a directory", "a/b"), 2, "error: Not a directory: a/b"),
    (Interrupted(signal.SIGTERM), 143, "stopped by SIGTERM"),
    (MemoryError("no array of that size"), 1, NO_MEMORY),
    (torch.OutOfMemoryError("CUDA out of memory"), 1, NO_MEMORY),
    (RuntimeError("Could not determine home directory."), 1, "error: Could not .* directory."),
    (RuntimeError("[at x.cpp] DefaultCPUAllocator: can't allocate memory: you"), 1, NO_MEMORY),
])  # fmt: skip
def test_errors_are_one_line_and_a_status(capsys, error, status, message):
    with pytest.raises(SystemExit) as stop, user_errors("x.py"):
        raise error
    assert stop.value.code == status
    assert re.fullmatch(f"x.py: {message}\n", capsys.readouterr().err)


@pytest.mark.parametrize("length", [10, 10**6])
def test_a_reader_that_has_enough_ends_a_program_without_a_word(length):
    words = f"import utils\nwith utils.user_errors('x.py'): print('x' * {length})"
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-c", words], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_a_network_that_cannot_be_compiled_is_one_line(refused):
    broken = torch.compile(lambda x: torch._dynamo.graph_break(), fullgraph=True)
    assert "--compile fails (" in refused(user_errors("x.py")(broken), torch.ones(1), status=1)


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("another")])
def test_a_mistake_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error)), user_errors("x.py"):
        raise error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_cut_the_tidying_up(number):
    before, tidied = signal.getsignal(number), []
    with pytest.raises(SystemExit) as stop, user_errors("x.py"):
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)
            tidied.append(True)
    assert tidied and stop.value.code == 128 + number
    assert signal.getsignal(number) == before


def test_errors_in_a_thread_are_one_line_too(refused):
    """Where signals cannot be handled."""

    @user_errors("x.py")
    def work():
        raise UserError("no such thing")

    with ThreadPoolExecutor() as pool:
        error = refused(lambda: pool.submit(work).result())
    assert error == "x.py: error: no such thing\n"


def test_a_process_of_another_user_is_alive(monkeypatch):
    monkeypatch.setattr(os, "kill", Mock(side_effect=PermissionError))
    assert utils.is_alive(1)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(options.names(options.Train)), st.text(max_size=6))
def test_any_text_is_a_value_or_a_clean_refusal(name, text):
    try:
        options.train_options([f"--{name}={text}"])
    except UserError as error:
        assert "\n" not in str(error)
    except SystemExit as stop:
        assert stop.code == 2


def test_durations():
    for seconds, words in (
        (0.26, "0.3 s"), (8, "8.0 s"), (45, "45 s"), (89, "89 s"), (120, "2 min"), (5000, "83 min"),
        (12_600, "3.5 h"), (90_000, "25 h"), (181_440, "2.1 days"),
    ):  # fmt: skip
        assert utils.duration(seconds) == words


def test_the_nearest_name_is_suggested():
    known = ["ConvNetSIAf", "ConvNetSI", "ResNet18"]
    for word, found in (("convnetsi", 1), ("Res", 2), ("ConvNetS1", 1)):
        assert utils.nearest(word, known) == f" (did you mean {known[found]}?)"
    assert utils.nearest("Adam", known) == utils.nearest("MobileNet", known) == ""
