"""The benchmark's own means: lines as processes under CUDA's MPS daemon, or why not."""

import argparse

import pytest

import benchmark

OPTIONS = argparse.Namespace(lines=2)


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    """Stands for the daemon's program, which notes how it is called and ends with a status."""

    def install(status=0):
        program = tmp_path / "bin" / benchmark.MPS
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\necho "$* $(cat) $CUDA_MPS_PIPE_DIRECTORY" >> {tmp_path}/calls\n'
            f"echo no GPU >&2\nexit {status}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return install


def test_lines_share_a_gpu_through_the_daemon_and_end_it(daemon, tmp_path, monkeypatch):
    daemon()
    seen = []

    def throughput(options, folder, **environment):
        seen.append(environment)
        raise benchmark.UserError("train.py failed:\nout of memory")

    monkeypatch.setattr(benchmark, "throughput", throughput)
    row = benchmark.throughput_under_mps(OPTIONS, tmp_path)
    assert row == {"failed": "out of memory"}
    pipes = f"{tmp_path}/mps"
    assert seen == [{"CUDA_MPS_PIPE_DIRECTORY": pipes, "CUDA_MPS_LOG_DIRECTORY": pipes}]
    assert (tmp_path / "calls").read_text().splitlines() == [f"-d  {pipes}", f" quit {pipes}"]


def test_without_the_daemon_the_row_says_so(daemon, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "throughput", pytest.fail)
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "a").mkdir()
    assert benchmark.MPS in benchmark.throughput_under_mps(OPTIONS, tmp_path / "a")["failed"]
    daemon(status=1)
    failed = benchmark.throughput_under_mps(OPTIONS, tmp_path)["failed"]
    assert "exit status 1" in failed
