"""What the claims' command keeps and tells, and that the pages say what is on record."""

import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import figures
from claims import __main__ as command
from claims import statistics, table
from claims.claim import CLAIMS, PARTS, NotMeasurable
from claims.statistics import ABOVE, Estimate, mean, share
from experiments.lines import lines_of
from options import Train
from runs import DIVERGED_STATUS
from utils import UserError

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "results" / "claims"
DESIGN = "Paper: it says. Estimate: a mean. Contradicted by: less. Limits: small; more."


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Measure a claim without runs in place of the toy function: its entry on record."""

    def run(*words, design=DESIGN, error=None):
        def measure():
            if error:
                raise error
            seeds = [0.6, 0.7, 0.8, 0.75]
            return [mean("digits: a mean", seeds, ABOVE(0.5))], [{"x": np.float64(math.nan)}]

        measure.__doc__ = design
        monkeypatch.setitem(CLAIMS, "toy", replace(CLAIMS["toy"], measure=measure))
        command.main(["--claim", "toy", "--results", str(tmp_path), *words])
        return table.read(tmp_path / "claims.json")["toy"]

    return run


def test_a_measured_claim_is_on_record(measured, tmp_path, capsys):
    entry = measured()
    assert "supported: a mean 0.71" in capsys.readouterr().out.replace("digits: ", "")
    assert entry["verdict"] == "supported" and entry["code"]
    (estimate,) = entry["estimates"]
    assert estimate["value"] == pytest.approx(0.7125) and estimate["inside"] == [0.5, None]
    assert estimate["seeds"] == [0.6, 0.7, 0.8, 0.75]
    assert json.loads((tmp_path / "toy.json").read_text())["rows"] == [{"x": None}]
    assert (tmp_path / "toy.png").exists()
    assert "a mean 0.71" in (tmp_path / "claims.md").read_text()


def test_what_another_process_records_meanwhile_stays(measured, monkeypatch, tmp_path):
    run_claim = command.measure

    def slowly(*args):
        other = {"adam": {"verdict": "undecided", "estimates": [], "reason": "x", "code": "c"}}
        command.write_json(tmp_path / "claims.json", {"claims": other})
        return run_claim(*args)

    monkeypatch.setattr(command, "measure", slowly)
    assert measured()["verdict"] == "supported"
    assert {*table.read(tmp_path / "claims.json")} == {"adam", "toy"}


def test_the_commit_on_record_is_the_first_that_judged_by_this_design(measured, monkeypatch):
    versions = iter("abc")
    monkeypatch.setattr(command.runs, "code_version", lambda: next(versions))
    designs = (DESIGN, DESIGN, DESIGN.replace("a mean", "another"))
    assert [measured(design=design)["code"] for design in designs] == ["a", "a", "c"]


def test_what_cannot_be_measured_is_undecided_and_says_why(measured, tmp_path):
    entry = measured(error=NotMeasurable("no period to branch from"))
    assert entry["verdict"] == "undecided" and "no period to branch from" in entry["reason"]
    assert "toy.png" not in (tmp_path / "claims.md").read_text()  # nothing to draw


@pytest.mark.parametrize("words", [["--quick"], ["--seeds", "1"]])
def test_fewer_runs_than_designed_are_not_judged_and_replace_no_verdict(measured, words, tmp_path):
    assert measured(*words)["verdict"] == "not judged"
    measured()
    before = (tmp_path / "claims.json").read_bytes()
    with pytest.raises(UserError, match="has a verdict on toy"):
        measured(*words)
    assert (tmp_path / "claims.json").read_bytes() == before


def test_a_failed_run_is_not_measured_and_one_that_diverged_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "check_data", lambda lines: None)
    for status, message in ((1, "a run of claims_adam failed"),
                            (DIVERGED_STATUS, r"has no config\.json")):  # fmt: skip
        monkeypatch.setattr(command, "run_here", lambda *args, status=status: status)
        with pytest.raises(UserError, match=message):
            command.main(["--claim", "adam", "--results", "."])


def test_listing_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, first in (([], [*command.ORDER]), (["--claim", "adam,toy"], ["toy", "adam"])):
        command.main([*words, "--list"])
        shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert shown == [*first, "in"]
    assert {*command.ORDER} == {*CLAIMS} and not any(tmp_path.iterdir())


def test_mistakes_are_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "measure", lambda *args: pytest.fail("measured"))
    Path("claims.json").write_text('{"claims": [')
    Path("old").mkdir()
    Path("old/claims.json").write_text('{"claims": {"toy": {"holds": "no"}}}')
    for words, message in (
        ("--table --results old", r"claims\.json is damaged"),
        ("--claim adm", "did you mean adam"),
        ("--claim toy --results .", r"claims\.json is damaged"),
        ("--claim practice --image_folder nowhere", "no folder nowhere/train"),
        ("--claim adam,practice --quick", "practice has no quick setting, unlike adam"),
        ("--table --claim toy", "--claim is of no use to --table"),
        ("--table --results resutls", "resutls has no claims.json"),
    ):
        with pytest.raises(UserError, match=message):
            command.main(words.split())


def test_designs_are_complete_and_trials_are_from_40_on():
    """Settings on CIFAR-10 alone can be trained on other images."""
    options = command.Command(image_folder="folder", seeds=9)
    for one in CLAIMS.values():
        assert [*one.design] == [*PARTS] and all(one.design.values())
        assert one.power[1] > 0.85  # planned for the effect seen so far
        assert all(seeds >= 5 for seeds in one.seeds)
        groups = command.lines_behind(one, options)
        for (setting, lines), seeds in zip(groups, one.seeds, strict=True):
            assert {line.options.trial for line in lines} == {*range(40, 40 + min(seeds, 9))}
            data = "Digits" if setting.options.dataset == "Digits" else "ImageFolder"
            assert {line.options.dataset for line in lines} == {data}
    for key in command.QUICK:
        ((setting, lines),) = command.lines_behind(CLAIMS[key], command.Command(quick=True))
        assert {line.options.trial for line in lines} == {0, 1}
        assert setting.options.epochs < CLAIMS[key].settings[0].options.epochs
        assert setting.name == f"{CLAIMS[key].settings[0].name}_quick"


def test_settings_and_seeds_are_those_that_were_fixed_before_the_data():
    """A change of what is trained needs new trials, and a new number here."""
    usual, designs = asdict(Train()), {}
    for key, one in CLAIMS.items():
        designs[key] = [*one.seeds]
        for line in (line for setting in one.settings for line in lines_of(setting)):
            options = {k: v for k, v in asdict(line.options).items() if v != usual[k]}
            designs[key].append((line.name, options))
    designs = json.dumps(designs, sort_keys=True)
    assert hashlib.sha256(designs.encode()).hexdigest()[:12] == "0e28ec8106ea"


def entry(name, value, low, high, inside=(0.5, None)):
    return {"name": name, "value": value, "low": low, "high": high, "inside": inside}


def test_estimates_of_one_quantity_are_told_together():
    found = [entry("a: share", 0.8, 0.6, 0.9), entry("b: share", 0.9, 0.7, 1.0),
             entry("c: share", None, None, None), entry("d: angle", 1.234, 1.1, 1.3),
             entry("x", None, None, None), entry("small", 0.0123, None, None),
             entry("beside", 3, 2, 4, None)]  # fmt: skip
    assert table.found(found) == (
        "share 0.80 to 0.90 [0.60, 1.00] in 3 settings; d: angle 1.23 [1.10, 1.30]; x: none; "
        "small 0.0123"
    )
    assert table.found(found, headline=True) == "share 0.80 to 0.90 [0.60, 1.00] in 3 settings"
    assert table.found(found[-1:]) == "beside 3.00 [2.00, 4.00]"  # none is judged
    shown = [table.margin(inside) for inside in ((0.8, 1.25), (None, 0), (0.5, None))]
    assert shown == ["0.8 to 1.25", "< 0", "> 0.5"]


def test_a_row_that_is_not_run_says_so_with_its_exploratory_estimate():
    exploratory = {"adam": {"estimates": [entry("m", 0.87, 0.75, 0.98)]}}
    record = {"adam": {"verdict": "undecided", "estimates": [entry("m", 0.6, 0.4, 0.8)],
                       "reason": "", "code": "0123456789"}}  # fmt: skip

    def row(*read):
        return next(line for line in table.page_table(*read).splitlines() if "with Adam" in line)

    assert "| *m 0.87 [0.75, 0.98]* | > 0.5 | not run yet |" in row({}, exploratory)
    shown = row(record, exploratory)
    assert "| m 0.60 [0.40, 0.80] | > 0.5 | undecided |" in shown and shown.endswith("| 0123456 |")
    assert len(table.page_table(record, {}).splitlines()) == 3  # only what is on record
    assert "0 supported, 1 undecided, 0 contradicted, 22 not run yet." in table.summary(record)
    record["adam"]["estimates"].insert(0, entry("first", 0.9, 0.8, 1.0) | {"verdict": "supported"})
    record["adam"]["estimates"][1]["verdict"] = "undecided"
    assert table.told(CLAIMS["adam"], record, {}, headline=True)[0].startswith("m 0.60")
    record["toy"] = {"verdict": "not judged"}
    assert "contradicted, 21 not run yet, 1 not judged." in table.summary(record)


def test_the_seeds_behind_an_estimate_are_those_that_it_has():
    def of(*counts):
        estimates = [{"seeds": [0] * n, "inside": n, "name": name} for name, n in counts]
        return {"frequency": {"estimates": estimates}}

    both = of(("digits", 5), ("images", 8), ("beside", 0))
    for record, seen, words in (({}, of(("digits", 2)), "2 seeds, digits"),
                                (both, {}, "5 and 8 seeds, digits and CIFAR-10")):  # fmt: skip
        assert table.rests_on(CLAIMS["frequency"], record, seen) == words
    rows = [line.split(" | ") for line in table.readme_table({}, {}).splitlines()[4:]]
    assert all(len({cell.count("<br>") for cell in row[:4]}) == 1 for row in rows)


def test_pages_and_record_are_in_step(monkeypatch):
    """`python -m claims --table --results results/claims` writes them."""
    monkeypatch.chdir(ROOT)
    for page, text in table.pages(RECORD).items():
        assert Path(page).read_text() == text, page
        shown = text.split("<!-- claims -->")[1].split("<!-- /claims -->")[0]
        cells = {cell.strip().lower() for row in shown.splitlines() for cell in row.split("|")}
        assert not {"yes", "no"} & cells  # no row is told by a bare one
    assert all(f"### {key}\n- *Paper*: " in text for key in CLAIMS)


@pytest.mark.parametrize("name", ["claims.json", "exploratory.json"])
def test_intervals_on_record_follow_from_the_seeds_beside_them(name):
    claims = [c for key, c in table.read(RECORD / name).items() if key not in ("toy", "length")]
    for estimate in (e for c in claims for e in c["estimates"] if e["value"] is not None):
        seeds = estimate["seeds"]
        found = [mean("", seeds), mean("", seeds, bounds=(-1, 1))]
        found += [share("", seeds)] if {*seeds} <= {0, 1} else []
        found += [statistics.ratio("", seeds)] if min(seeds) > 0 else []
        limits = pytest.approx((estimate["low"], estimate["high"]), rel=1e-3, abs=1e-4)
        assert any((e.low, e.high) == limits for e in found), estimate["name"]


def test_estimates_are_drawn_with_interval_and_margin():
    found = (mean("a", [1, 2, 3], ABOVE(0)), share("b", [True] * 8), Estimate("c", [], math.nan))
    figure = figures.estimates(found, "A claim")
    assert [axis.get_title("left") for axis in figure.axes] == [
        "a: undecided", "b: supported", "c: beside, not judged",
    ]  # fmt: skip
    points, bar, middle = figure.axes[0].lines
    assert points.get_xdata().tolist() == [1, 2, 3] and middle.get_xdata()[0] == 2
    assert bar.get_xdata() == pytest.approx([found[0].low, found[0].high])
    assert len(figure.axes[0].patches) == 1 and len(figure.axes[2].patches) == 0
