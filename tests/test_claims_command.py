"""What the claims' command keeps and tells, and that the pages say what is on record."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import saw

import figures
from claims import __main__ as command
from claims import claim, statistics, table
from claims.claim import CLAIMS, Claim, Estimate, Finding, NotMeasurable
from claims.statistics import ABOVE
from experiments.lines import lines_of
from utils import UserError

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "results" / "claims"
DESIGN = "Paper: it says. Estimate: a mean. Contradicted by: less. Limits: small; more."


def measure(*found):
    seeds = [0.6, 0.7, 0.8, 0.75]
    return Finding(
        (claim.mean("digits: a mean", seeds, ABOVE(0.5)),), [{"x": np.float64(math.nan)}]
    )


measure.__doc__ = DESIGN


@pytest.fixture
def one_claim(monkeypatch):
    one = Claim("toy", "P1 (1)", "A claim", (), (), ("an effect", 0.9), 0.1, measure)
    monkeypatch.setattr(table, "CLAIMS", [one])
    monkeypatch.setattr(command, "CLAIMS", [one])
    return one


def test_a_measured_claim_is_on_record(one_claim, tmp_path, capsys):
    command.main(f"--claim toy --results {tmp_path}/out".split())
    assert "supported" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "claims.json").read_text())["claims"]["toy"]
    assert record["verdict"] == "supported" and record["code"]
    (estimate,) = record["estimates"]
    assert estimate["value"] == pytest.approx(0.7125) and estimate["inside"] == [0.5, None]
    assert estimate["seeds"] == [0.6, 0.7, 0.8, 0.75]
    rows = json.loads((tmp_path / "out" / "toy.json").read_text())["rows"]
    assert rows == [{"x": None}] and (tmp_path / "out" / "toy.png").exists()
    assert "a mean 0.71" in (tmp_path / "out" / "claims.md").read_text()


def test_the_commit_on_record_is_the_first_that_judged_by_this_design(
    one_claim, tmp_path, monkeypatch
):
    for version in ("first", "second"):
        monkeypatch.setattr(command.runs, "code_version", lambda version=version: version)
        command.main(f"--claim toy --results {tmp_path}".split())
    assert table.read(tmp_path / "claims.json")["toy"]["code"] == "first"
    monkeypatch.setattr(measure, "__doc__", DESIGN.replace("a mean", "another"))
    command.main(f"--claim toy --results {tmp_path}".split())
    assert table.read(tmp_path / "claims.json")["toy"]["code"] == "second"


def test_what_cannot_be_measured_is_undecided_and_says_why(one_claim, tmp_path, monkeypatch):
    def fails():
        raise NotMeasurable("no period to branch from")

    fails.__doc__ = DESIGN
    monkeypatch.setattr(command, "CLAIMS", [replace(one_claim, measure=fails)])
    command.main(f"--claim toy --results {tmp_path}".split())
    entry = table.read(tmp_path / "claims.json")["toy"]
    assert entry["verdict"] == "undecided" and "no period to branch from" in entry["reason"]


@pytest.mark.parametrize("words", ["--quick", "--seeds 1"])
def test_fewer_runs_than_designed_are_not_judged(one_claim, tmp_path, monkeypatch, words):
    monkeypatch.setattr(command, "QUICK", ("toy",))
    command.main(f"{words} --results {tmp_path}".split())
    assert table.read(tmp_path / "claims.json")["toy"]["verdict"] == "not judged"


def test_a_failed_run_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "run_here", lambda *args: 1)
    monkeypatch.setattr(command, "check_data", lambda lines: None)
    with pytest.raises(UserError, match="a run of claims_adam failed"):
        command.main(f"--claim adam --results {tmp_path}".split())


def test_listing_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.main(["--list"])
    text = capsys.readouterr().out
    assert all(one.key in text for one in CLAIMS) and "in all" in text
    assert not any(tmp_path.iterdir())
    command.main(["--claim", "adam,toy", "--list"])
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["toy", "adam", "in"]


def test_mistakes_are_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "measure", lambda *args: pytest.fail("measured"))
    with pytest.raises(UserError, match="did you mean adam"):
        command.main(["--claim", "adm"])
    Path("claims.json").write_text('{"claims": [')
    with pytest.raises(UserError, match=r"claims\.json is damaged"):
        command.main(["--claim", "toy", "--results", "."])
    with pytest.raises(UserError, match="no folder nowhere/train"):
        command.main(["--claim", "practice", "--image_folder", "nowhere"])
    with pytest.raises(UserError, match="none of these claims has a quick setting"):
        command.main(["--claim", "practice", "--quick"])


def test_trials_are_from_40_on_and_settings_on_digits_stay_there():
    options = command.Command(image_folder="folder")
    for one in CLAIMS:
        for setting, seeds, group in zip(
            one.settings, one.seeds, command.lines_behind(one, options), strict=True
        ):
            trials = {line.options.trial for line in group}
            assert trials == {*range(40, 40 + seeds)}
            on_digits = setting.options.dataset == "Digits"
            data = {line.options.dataset for line in group}
            assert data == {"Digits" if on_digits else "ImageFolder"}
    assert {*command.ORDER} == {one.key for one in CLAIMS}


def test_settings_make_the_runs_that_they_name():
    adam = next(one for one in CLAIMS if one.key == "adam")
    (line,) = lines_of(adam.settings[0].in_trials([40]))
    assert (line.options.optimizer, line.options.lr_init, line.options.trial) == ("adam", 0.02, 40)
    assert line.options.use_test and line.options.noaug and line.options.no_schedule
    (quick,) = lines_of(claim.at_quick(adam).settings[0].in_trials([0]))
    assert quick.options.epochs < line.options.epochs and quick.folder != line.folder


def test_runs_by_line_and_by_seed(make):
    runs_of = [make(*saw(50, 20), {"trial": t, "lr_init": lr}, f"lr_{lr}")
               for lr in (0.2, 0.1) for t in (41, 40)]  # fmt: skip
    assert [*map(len, claim.by_line(runs_of).values())] == [2, 2]
    seeds = claim.by_seed(runs_of)
    assert [*seeds] == [40, 41]
    assert [run.config["lr_init"] for run in seeds[40]] == [0.1, 0.2]


# --- what is told ---


def entry(name, value, low, high, inside=(0.5, None)):
    return {"name": name, "value": value, "low": low, "high": high, "inside": inside}


def test_estimates_of_one_quantity_are_told_together():
    found = [entry("a: share", 0.8, 0.6, 0.9), entry("b: share", 0.9, 0.7, 1.0),
             entry("c: share", None, None, None), entry("angle", 1.234, 1.1, 1.3),
             entry("beside", 3, 2, 4, None)]  # fmt: skip
    assert table.found(found) == (
        "share 0.80 to 0.90 [0.60, 1.00] in 3 settings; angle 1.23 [1.10, 1.30]"
    )
    assert "beside 3.00" in table.found(found, judged=False)
    assert table.short("x", None, None, None) == "x: none"
    assert table.interval((0.8, 1.25)) == "0.8 to 1.25" and table.interval((None, 0)) == "< 0"


def test_a_row_that_is_not_run_says_so_with_its_exploratory_estimate(one_claim):
    exploratory = {"toy": {"trials": "10 to 14", "estimates": [entry("m", 0.87, 0.75, 0.98)]}}
    shown = table.page_table({}, exploratory)
    assert "not run yet" in shown and "*m 0.87 [0.75, 0.98]*" in shown
    record = {"toy": {"verdict": "undecided", "estimates": [entry("m", 0.6, 0.4, 0.8)],
                      "code": "0123456789"}}  # fmt: skip
    shown = table.page_table(record, exploratory)
    assert "undecided" in shown and "0.87" not in shown and "0123456" in shown
    assert "1 undecided" in table.summary(record)


def test_pages_and_record_are_in_step():
    """`python -m claims --table --results results/claims` writes them."""
    for page, sections in table.sections(RECORD).items():
        text = (ROOT / page).read_text()
        for marker, content in sections.items():
            assert f"<!-- {marker} -->\n{content}<!-- /{marker} -->" in text, (page, marker)


def test_no_row_is_told_by_a_bare_yes_or_no():
    for sections in table.sections(RECORD).values():
        cells = [cell.strip() for row in sections["claims"].splitlines() for cell in row.split("|")]
        assert not {"yes", "no", "Yes", "No"} & {*cells}
    assert all(one.key in table.page_designs() for one in CLAIMS)


@pytest.mark.parametrize("name", ["claims.json", "exploratory.json"])
def test_intervals_on_record_follow_from_the_seeds_beside_them(name):
    for key, found in table.read(RECORD / name).items():
        for estimate in found["estimates"]:
            seeds, value = estimate["seeds"], estimate["value"]
            if value is None or key in ("toy", "length"):
                continue
            candidates = [statistics.of_mean(seeds), statistics.of_mean(seeds, (0, 1))]
            if {*seeds} <= {0, 1}:
                candidates.append(statistics.of_share(int(sum(seeds)), len(seeds)))
            if min(seeds) > 0:
                candidates.append(statistics.of_ratio(seeds))
            limits = (estimate["low"], estimate["high"])
            assert any((c.low, c.high) == pytest.approx(limits, rel=1e-3, abs=1e-4)
                       for c in candidates), (key, estimate["name"])  # fmt: skip


def test_estimates_are_drawn_with_interval_and_margin():
    found = (claim.mean("a", [1, 2, 3], ABOVE(0)), claim.share("b", [True] * 8),
             Estimate("c", statistics.of_mean([]), []))  # fmt: skip
    figure = figures.estimates(found, "A claim")
    assert [axis.get_title("left") for axis in figure.axes] == [
        "a: undecided", "b: supported", "c: beside, not judged",
    ]  # fmt: skip
    points, _, middle = figure.axes[0].lines
    assert points.get_xdata().tolist() == [1, 2, 3] and middle.get_xdata()[0] == 2
    assert len(figure.axes[0].patches) == 1 and len(figure.axes[2].patches) == 0
