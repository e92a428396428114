"""What is written is read back as it was, whatever it is; any text is a value or refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import options
import runs
import utils
from runs.config import DEFAULTS

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text("abcdefgh_.", min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 10**6),
        st.dictionaries(names, st.floats(), max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_metrics_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("metrics") / "x.npz"
    runs.Metrics(rows).write(path)
    back = runs.Metrics.read(path).rows
    assert back.keys() == rows.keys()
    for epoch in rows:
        assert back[epoch].keys() == rows[epoch].keys()
        for name, value in rows[epoch].items():
            np.testing.assert_array_equal(back[epoch][name], value)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({"epoch": st.integers(0, 9999), "loss": st.floats() | st.none()}),
        min_size=1,
        max_size=5,
    )
)
def test_log_round_trip(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("log")
    rows = [{"epoch": row["epoch"], "loss": row["loss"]} for row in rows]
    runs.write_log(folder, rows[:2])
    for row in rows[2:]:
        runs.append_log(folder, row)
    for row, back in zip(rows, runs.read_log(folder), strict=True):
        assert back["epoch"] == row["epoch"]
        np.testing.assert_array_equal(
            np.array(back["loss"], dtype=float), np.array(row["loss"], dtype=float)
        )


def test_log_torn_at_any_byte_loses_its_last_row_alone(run):
    folder = run("--epochs 2 --save_freq 1")
    rows, log = runs.read_log(folder), folder / runs.LOG
    text = log.read_bytes()
    first = text.index(b"\n", text.index(b"\n") + 1) + 1  # the end of the first row
    for length in range(first, len(text)):
        log.write_bytes(text[:length])
        assert runs.read_log(folder) == rows[:1]
    (folder / "checkpoint-2.pt").unlink()
    run("--epochs 2 --save_freq 1 --resume")
    resumed = runs.read_log(folder)
    assert [row["train_loss"] for row in resumed] == [row["train_loss"] for row in rows]
    assert log.read_bytes().endswith(b"\n")


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(names, st.none() | st.booleans() | finite | st.integers() | st.text(max_size=5))
)
def test_config_round_trip(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("config")
    runs.write_config(folder, config)
    assert runs.read_config(folder) == {**DEFAULTS, **config}
    assert json.loads((folder / runs.CONFIG).read_text()) == config


NUMBERS = {
    "lr_init": lambda v: v > 0, "wd": lambda v: v >= 0, "momentum": lambda v: 0 <= v < 1,
    "corrupt_train": lambda v: 0 <= v <= 1, "noninvlr": lambda v: v == -1 or v >= 0,
    "init_scale": lambda v: v == -1 or v > 0, "fix_si_pnorm_value": lambda v: True,
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(NUMBERS)), st.floats() | st.sampled_from([-1.0, 0.0, 1.0]))
def test_numbers_are_taken_or_refused_by_their_range(name, value):
    if math.isfinite(value) and NUMBERS[name](value):
        assert getattr(options.Train(**{name: value}), name) == value
    else:
        with pytest.raises(utils.UserError, match=f"--{name}"):
            options.Train(**{name: value})


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(options.names(options.Train)), st.text(max_size=6))
def test_any_text_is_a_value_or_a_clean_refusal(name, text):
    try:
        options.train_options([f"--{name}={text}"])
    except utils.UserError as error:
        assert "\n" not in str(error)
    except SystemExit as stop:
        assert stop.code == 2
