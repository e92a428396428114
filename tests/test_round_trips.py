"""What is written is read back as it was, whatever it is; any text is a value or is refused."""

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import options
import runs
import utils
from runs.config import DEFAULTS

names = st.text("abcdefgh_.", min_size=1, max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.none() | st.booleans() | finite | st.integers() | st.text(max_size=5)
epochs = st.integers(0, 10**6) | st.integers(0, 99).map(lambda n: n / 4)
metrics = st.dictionaries(names, st.floats(), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(epochs, metrics, min_size=1, max_size=5))
def test_metrics_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("metrics") / "x.npz"
    runs.Metrics(rows).write(path)
    np.testing.assert_equal(runs.Metrics.read(path).rows, rows)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9999), st.floats() | st.none()), min_size=1, max_size=5))
def test_log_round_trip(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("log")
    rows = [{"epoch": epoch, "loss": loss} for epoch, loss in written]
    runs.write_log(folder, rows[:2])
    for row in rows[2:]:
        runs.append_log(folder, row)
    back = [(row["epoch"], row["loss"]) for row in runs.read_log(folder)]
    np.testing.assert_array_equal(np.array(back, float), np.array(written, float))


def test_log_torn_at_any_byte_loses_its_last_row_alone(run):
    folder = run("--epochs 2 --save_freq 1")
    rows, log = runs.read_log(folder), folder / runs.LOG
    header, first, second = log.read_bytes().splitlines(keepends=True)
    for length in range(len(second)):
        log.write_bytes(header + first + second[:length])
        assert runs.read_log(folder) == rows[:1]
    (folder / "checkpoint-2.pt").unlink()
    run("--epochs 2 --save_freq 1 --resume")
    resumed = runs.read_log(folder)
    assert [row["train_loss"] for row in resumed] == [row["train_loss"] for row in rows]
    assert log.read_bytes().endswith(b"\n")


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(names, values))
def test_config_round_trip(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("config")
    runs.write_config(folder, config)
    assert runs.read_config(folder) == {**DEFAULTS, **config}
    assert json.loads((folder / runs.CONFIG).read_text()) == config


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(options.names(options.Train)), st.text(max_size=6))
def test_any_text_is_a_value_or_a_clean_refusal(name, text):
    try:
        options.train_options([f"--{name}={text}"])
    except utils.UserError as error:
        assert "\n" not in str(error)
    except SystemExit as stop:
        assert stop.code == 2
