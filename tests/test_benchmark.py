"""The benchmark times what it says, at a tiny size."""

import benchmark
from experiments import cost

SIZE = ["--width", "1", "--images", "20", "--rounds", "1", "--gpu", "-1"]


def test_both_loops_and_the_bare_network_are_timed(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "WORKERS", 0)
    benchmark.main(SIZE)
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith(("epoch", "metrics"))]
    assert [row[0] for row in rows] == ["epoch,", "metrics,"]
    for _, _, plain, ours, ratio in rows:
        assert float(plain) > 0 and float(ours) > 0 and float(ratio) > 0
    assert "the bare network's" in out


def test_rates_are_of_the_networks_of_the_estimates(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "STEPS", 1)
    monkeypatch.setattr(benchmark, "BATCH", 2)
    monkeypatch.setattr(cost, "REFERENCE", {"ConvNet": {1: ()}, "ResNet18": {2: ()}})
    benchmark.main([*SIZE, "--rates"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[:2] for row in rows] == [["ConvNet", "1"], ["ResNet18", "2"]]
    assert all(float(ms) > 0 for *_, ms in rows)


def test_the_first_round_is_not_counted():
    times = iter([0, 100, 101, 101, 103, 103, 106])
    seconds = benchmark.time_in_turn(
        {"x": lambda: None}, benchmark.torch.device("cpu"), 3, lambda: next(times)
    )
    assert seconds == {"x": 2}
