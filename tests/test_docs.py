"""README, environment files and notebook say what the code does."""

import ast
import graphlib
import io
import itertools
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import PIL.Image
import pytest
import yaml
from conftest import ROOT
from packaging.version import Version

import figures
from experiments import EXPERIMENTS
from experiments.lines import lines_of
from options import Measure, Train, parse
from run_train_and_test import Driver
from runs import find_runs
from theory import toy


def section(page, name):
    """A part of a page that is generated."""
    text = (ROOT / page).read_text()
    return text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


def test_tables_show_what_the_results_hold():
    shown = figures.table(find_runs(ROOT / "results" / "demo"))
    assert section("README.md", "demo") == f"```\n{shown}\n```"


def test_the_results_of_the_demo_are_those_of_its_setting():
    runs, lines = find_runs(ROOT / "results" / "demo"), lines_of(EXPERIMENTS["demo"])
    for run, line in zip(runs, lines, strict=True):
        asked = asdict(replace(line.options, norm_eps=1e-12))
        shared = asked.keys() & run.config.keys()
        assert {key: run.config[key] for key in shared} == {key: asked[key] for key in shared}


PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
SCRIPTS = {"train.py": Train, "test.py": Measure, "run_train_and_test.py": Driver}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_pages_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", (page.parent / link).read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in slugs, f"{link}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_pages_can_be_given(page):
    """Scripts, modules and experiments exist, options and their values are accepted."""
    blocks = re.findall(r"```\n(.*?)```", page.read_text(), flags=re.DOTALL)
    commands = re.findall(r"^python [^#\n]*", "\n".join(blocks).replace("\\\n", ""), re.MULTILINE)
    commands += re.findall(r"`(python [^`]*)`", page.read_text())
    for command in commands:
        words = command.split()[1:]
        if words[0] == "-m":
            place = ROOT / words[1].replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), command
        else:
            assert (ROOT / words[0]).exists(), command
        for option, value in itertools.pairwise(words):
            if option == "--experiment":
                assert value in EXPERIMENTS, command
        if words[0] in SCRIPTS and "<" not in command:  # a placeholder
            parse(SCRIPTS[words[0]], words[1:], words[0], command)


def test_the_code_of_the_page_on_scripts_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "scripting.md").read_text()
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    figures.plt.close("all")
    assert len(capsys.readouterr().out.splitlines()) == len(find_runs(ROOT / "results/demo"))
    monkeypatch.chdir(names["run"].folder)
    log = eval(re.search(r"`(np\.genfromtxt.*?)`", text)[1], names)
    for name, column in names["run"].log().items():
        np.testing.assert_array_equal(log[name], column)  # NaN where not evaluated


def requirements(name):
    """The packages of a requirements file with what is asked of each, for a new Python."""
    lines = (ROOT / name).read_text().splitlines()
    found = [re.split("[;#]", line)[0].strip() for line in lines if '< "3.11"' not in line]
    return dict(re.findall(r"^([a-z-]+)(.*)$", "\n".join(found), re.MULTILINE))


def test_conda_and_pip_requirements_are_the_same_and_pinned_within_the_tested_ranges():
    needed, pinned = requirements("requirements.txt"), requirements("constraints.txt")
    conda = yaml.safe_load((ROOT / "cycle_env.yml").read_text())["dependencies"]
    assert {*conda[-1]["pip"]} == {name + pinned[name] for name in needed}
    assert any(re.fullmatch(r"python=3\.1\d", str(d)) for d in conda)
    # Pinned versions lie in the tested ranges
    pinned, ranges = (ROOT / "constraints.txt").read_text(), (ROOT / "requirements.txt").read_text()
    ends = re.findall(r"^([a-z-]+)>=([\d.]+)  # ([\d.]+)$", ranges, re.MULTILINE)
    assert [name for name, *_ in ends] == [*requirements("requirements.txt")]
    for name, low, high in ends:
        pins = re.findall(rf"^{name}==([\d.]+)", pinned, re.MULTILINE)
        assert pins and all(Version(low) <= Version(pin) <= Version(high) for pin in pins), name


# Every module may import those of its own place (without a circle) and of the places before it.
PLACES = (
    ("minimal",), ("theory",), ("utils",), ("options",), ("models",), ("monitor",), ("data",),
    ("runs",), ("training",), ("measuring",), ("train", "test"), ("figures",), ("experiments",),
    ("claims",), ("benchmark", "run_train_and_test"),
)  # fmt: skip


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, modules):
    """The modules of this project that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{name.name}" for name in node.names} & modules.keys()
            found |= whole or {node.module}
    return found & modules.keys()


def test_imports_go_one_way():
    rank = {place: i for i, places in enumerate(PLACES) for place in places}
    folders = [ROOT, *(ROOT / place for place in rank)]
    files = [path for folder in folders for path in folder.glob("*.py")]
    modules = {module_name(path): path for path in files}
    graph = {name: imports(path, modules) - {name} for name, path in modules.items()}
    for name, found in graph.items():
        here = rank[name.split(".")[0]]
        for other in found:
            assert rank[other.split(".")[0]] <= here, f"{name} imports {other}"
    # A folder's own name stands for the few names that it hands on: inside, none goes through it.
    inside = {name: found for name, found in graph.items() if "." in name}
    assert not [name for name, found in inside.items() if name.split(".")[0] in found]
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_a_script_without_options_refuses_them():
    words = [sys.executable, "-m", "theory.toy", "--foo"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "--foo" in done.stderr and not done.stdout


def test_only_scripts_know_the_command_line():
    for folder in ("training", "models", "theory", "runs"):
        for path in (ROOT / folder).glob("*.py"):
            assert not re.search(r"\btyro\b|import .*\bparse\b", path.read_text()), path


NOTEBOOK = json.loads((ROOT / "Plots.ipynb").read_text())
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Execute the notebook's cells here, on the runs of a folder: the headings and pictures."""
    shown = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("EXPERIMENTS", str(tmp_path))
    monkeypatch.setattr("IPython.display.display", lambda *what: shown.extend(what))

    def execute():
        names = {}
        with figures.plt.rc_context():
            for cell in CELLS:
                exec("".join(cell["source"]), names)
                assert not figures.plt.get_fignums()  # a kernel would show them a second time
        return [what.data for what in shown]

    return execute


def test_the_notebook_draws_own_runs(distinct, executed, monkeypatch, capsys):
    """The first picture is drawn to the last pixel, and stands for all."""
    draw, drawn = figures.plt.savefig, io.BytesIO()

    def save(file, dpi):
        if not drawn.getvalue():
            draw(drawn, dpi=dpi)
        file.write(drawn.getvalue())

    monkeypatch.setattr(figures.plt, "savefig", save)
    run, _ = distinct(line="x/a"), distinct({"lr_init": 0.3}, line="x/b")
    distinct({"resume_epoch": 8}, line="x/c").folder.rename(run.folder / "branch-8")
    shown = executed()
    headings = [text for text in shown if isinstance(text, str)]
    assert headings == ["### x", f"### {run.folder}", "### x"]
    pictures = [PIL.Image.open(io.BytesIO(data)) for data in shown if isinstance(data, bytes)]
    assert len(pictures) == 5 and np.ptp(np.asarray(pictures[0].convert("L"))) > 99
    printed = capsys.readouterr().out
    assert printed.count("learning rate") == 1 and "from epoch 8" in printed


def test_the_notebook_without_runs_shows_the_results_on_record(executed, monkeypatch, capsys):
    dot, descend = PIL.Image.new("RGB", (4, 4)), toy.descend
    monkeypatch.setattr(figures.plt, "savefig", lambda file, dpi: dot.save(file, "PNG"))
    monkeypatch.setattr(toy, "descend", lambda elr, steps, *more, **how: descend(elr, 50, **how))
    shown = executed()
    assert "make demo" in capsys.readouterr().out
    headings = [text for text in shown if isinstance(text, str)]
    names = ("demo", "figure2_cpu", "three_regimes_cpu", "conventional_cpu")
    assert {f"### {name}" for name in (*names, "sphere_minima_cpu: paths")} <= {*headings}
    assert len(shown) - len(headings) > len(headings)


def test_the_notebook_on_record_was_executed_and_is_small():
    assert (ROOT / "Plots.ipynb").stat().st_size < 1_000_000
    assert [cell["execution_count"] for cell in CELLS] == [*range(1, len(CELLS) + 1)]
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) > 20
