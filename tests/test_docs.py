"""README, environment files and notebook say what the code does."""

import ast
import graphlib
import json
import re
import subprocess
import sys

import nbformat
import pytest
import yaml
from conftest import ROOT
from nbclient import NotebookClient

import figures
import options
import test as test_script
from claims.table import short_table, table
from experiments import EXPERIMENTS, cost
from experiments.lines import lines_of
from runs import find_runs
from utils import duration


def section(name):
    """A part of the README that is generated."""
    text = (ROOT / "README.md").read_text()
    return text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0].strip()


def test_readme_holds_the_table_of_options():
    printed = subprocess.run(
        [sys.executable, "options.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert section("options") == printed.strip()
    assert f"`--{options.TRAIN[0].key}`" in printed


def test_readme_shows_the_measured_claims():
    folder = ROOT / "results" / "claims"
    record = json.loads((folder / "claims.json").read_text())["claims"]
    assert (folder / "claims.md").read_text() == table(record)
    assert section("claims") == short_table(record).strip()
    for key, found in record.items():
        assert (folder / f"{key}.png").exists() == found["figure"]


def test_readme_shows_what_sweeps_cost():
    rows = re.findall(r"\| `(\w+)` \| (.*) \|", section("costs"))
    assert rows
    for name, shown in rows:
        lines = lines_of(EXPERIMENTS[name])
        costs = [cost.cost(line) for line in lines]
        core, gpu = ([getattr(c, f"{kind}_seconds") for c in costs] for kind in ("core", "gpu"))
        work = f"{sum(c.operations for c in costs):.1e}"
        times = map(duration, (sum(core) / 2, sum(gpu), max(gpu)))
        assert shown.split(" | ") == [str(len(lines)), work, *times], name


def test_readme_shows_what_its_results_hold():
    results = ROOT / "results"
    (periodic,) = find_runs(results / "figure2_cpu" / "lr_0.01_wd_0.02")
    shown = {
        "figure2_cpu": figures.table(find_runs(results / "figure2_cpu")),
        "three_regimes_cpu": figures.table(find_runs(results / "three_regimes_cpu")),
        "periods_cpu": figures.period_table(periodic),
    }
    for name, text in shown.items():
        assert section(name) == f"```\n{text}\n```", name


def requirements(name):
    """The packages of a requirements file with what is asked of each, for a new Python."""
    lines = (ROOT / name).read_text().splitlines()
    found = [line.split(";")[0].strip() for line in lines if '< "3.11"' not in line]
    return dict(re.findall(r"^([a-z-]+)(.*)$", "\n".join(found), re.MULTILINE))


def test_conda_and_pip_requirements_are_the_same():
    needed, pinned = requirements("requirements.txt"), requirements("constraints.txt")
    conda = yaml.safe_load((ROOT / "cycle_env.yml").read_text())["dependencies"]
    assert {*conda[-1]["pip"]} == {name + pinned[name] for name in needed}
    assert any(re.fullmatch(r"python=3\.1\d", str(d)) for d in conda)


# Every module may import those of its own place (without a circle) and of the places before it.
PLACES = (
    ("minimal",), ("theory",), ("utils",), ("models",), ("monitor",), ("options",), ("data",),
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
    folders = {place for places in PLACES for place in places if (ROOT / place).is_dir()}
    files = [
        *ROOT.glob("*.py"),
        *(path for folder in folders for path in (ROOT / folder).glob("*")),
    ]
    modules = {module_name(path): path for path in files if path.suffix == ".py"}
    rank = {place: i for i, places in enumerate(PLACES) for place in places}
    graph = {name: imports(path, modules) - {name} for name, path in modules.items()}
    for name, found in graph.items():
        here = rank[name.split(".")[0]]
        for other in found:
            assert rank[other.split(".")[0]] <= here, f"{name} imports {other}"
    # A folder's own name stands for the few names that it hands on: inside, none goes through it.
    inside = {name: found for name, found in graph.items() if "." in name}
    assert not [name for name, found in inside.items() if name.split(".")[0] in found]
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_only_experiments_and_scripts_know_the_command_line():
    for folder in ("training", "measuring/meter.py", "measuring/recorder.py", "models", "theory"):
        paths = [ROOT / folder] if folder.endswith(".py") else (ROOT / folder).glob("*.py")
        assert not [path for path in paths if "options" in imports(path, {"options": path})]


CLAIMS_SHOWN = len(list((ROOT / "results" / "claims").glob("*.png")))  # whatever runs there are


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """The notebook, executed on the runs of a folder: its outputs."""
    monkeypatch.chdir(ROOT)

    def execute():
        monkeypatch.setenv("EXPERIMENTS", str(tmp_path))
        monkeypatch.delenv("MPLBACKEND", raising=False)  # the notebook draws inline
        notebook = nbformat.read(ROOT / "Plots.ipynb", as_version=4)
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": ROOT}}).execute()
        return [output for cell in notebook.cells for output in cell.get("outputs", [])]

    return execute


def test_notebook_draws_small_runs(run, executed):
    for trial, lr in enumerate((0.1, 0.5)):
        folder = run(f"--trial {trial} --lr_init {lr}").parent / f"trial_{trial}"
        shared = f"--models_dir {folder} --gpu -1"
        measured = "--train_mode --eval_model --all_pnorm --calc_grad_norms"
        test_script.main(
            f"{shared} {measured} --prebn_save_path {folder}/train-tm-prebn.npz".split()
        )
        test_script.main(f"{shared} --use_test --eval_model".split())
        assert (folder / "test-em.npz").exists()
    run("--trial 1 --lr_init 0.5 --resume_epoch 2 --epochs 1 --metrics")
    outputs = executed()
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4 + CLAIMS_SHOWN
    assert any("learning rate" in output.get("text", "") for output in outputs)


def test_notebook_without_runs_says_what_to_do(executed):
    outputs = executed()
    assert any("make demo" in output.get("text", "") for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == CLAIMS_SHOWN


def test_committed_notebook_shows_figures():
    notebook = nbformat.read(ROOT / "Plots.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
