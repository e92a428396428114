"""The benchmark's own means: its parts as processes, and lines under CUDA's MPS daemon."""

import json

import pytest

import benchmark
from command_line import Parser
from experiments import gpu, plain

SIZE = "--width 1 --images 20 --epochs 1 --rounds 1 --gpu -1"
OPTIONS = Parser(benchmark.OPTIONS, prog="benchmark.py", description="").parse_args(SIZE.split())


def test_the_minutes_of_a_gpu_ask_for_what_there_is():
    words = gpu.COMMANDS["choices"].split()[1:]
    asked = Parser(benchmark.OPTIONS, prog="benchmark.py", description="").parse_args(words)
    assert asked.choices and asked.width == 32 and asked.lines > 1


@pytest.mark.parametrize("part, names", [
    ("plain", {"epoch", "metrics"}),
    ("parts", {"epoch", "metrics", "bare", "step over bare", "flop per image", "flop per second",
               "bytes per image", "bytes per second"}),
])  # fmt: skip
def test_a_part_is_measured_by_the_command_that_is_made_for_it(
    part, names, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(plain, "WORKERS", 0)
    benchmark.make_images(OPTIONS, tmp_path)
    script, *words = benchmark.part_words(OPTIONS, part)
    assert script == "benchmark.py"
    benchmark.main(words)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.keys() == names and min(found.values()) > 0


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
