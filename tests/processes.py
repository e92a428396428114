"""Processes that run this project's scripts as `python SCRIPT WORDS` would, but start at once.

They are forked from one that has imported torch (seconds), in which nothing has computed yet.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from multiprocessing.reduction import DupFd
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch._dynamo", "sklearn.datasets", "train", "test"])


def wait_until(condition, seconds=180):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def _run(words, folder, environment, output, errors):
    for pipe, standard in ((output, 1), (errors, 2)):
        os.dup2(pipe.detach(), standard)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    sys.argv[:] = words
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    runpy.run_path(words[0], run_name="__main__")


class Started:
    """Takes the place of `subprocess.Popen` for [sys.executable, script, words...]."""

    def __init__(self, command, *, cwd=None, env=None, stderr=subprocess.PIPE, **_):
        reading, writing = os.pipe()
        other_reading, other_writing = os.pipe()
        errors = writing if stderr == subprocess.STDOUT else other_writing
        words, folder = [str(word) for word in command[1:]], str(cwd or Path.cwd())
        arguments = words, folder, dict(env or os.environ), DupFd(writing), DupFd(errors)
        self.process = SERVER.Process(target=_run, args=arguments)
        self.process.start()
        for end in (writing, other_writing):
            os.close(end)
        self.stdout, self.stderr = os.fdopen(reading), os.fdopen(other_reading)
        self.pid = self.process.pid

    def poll(self):
        return self.process.exitcode

    returncode = property(poll)

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.process.exitcode

    def communicate(self, timeout=None):
        """All that it has printed: little enough for the pipes."""
        self.wait(timeout)
        return self.stdout.read(), self.stderr.read()

    def send_signal(self, number):
        if self.process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)
