"""README, environment files and notebook say what the code does."""

import ast
import graphlib
import itertools
import re
import subprocess
import sys
from dataclasses import asdict, replace

import nbformat
import numpy as np
import PIL.Image
import pytest
import yaml
from conftest import ROOT
from IPython.display import Markdown
from nbclient import NotebookClient
from packaging.version import Version

import figures
import test as test_script
from experiments import EXPERIMENTS
from experiments.lines import lines_of
from options import Measure, Train, parse
from run_train_and_test import Driver
from runs import find_runs


def section(page, name):
    """A part of a page that is generated."""
    text = (ROOT / page).read_text()
    return text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


def test_the_page_of_options_is_what_options_py_prints():
    printed = subprocess.run(
        [sys.executable, "options.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert section("docs/options.md", "options") == printed.strip()
    assert "`--lr_init`" in printed


def test_the_notebook_shows_the_claims_as_they_are_on_record(monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = nbformat.read("Plots.ipynb", as_version=4).cells
    outputs = [out for cell in cells if cell.cell_type == "code" for out in cell.outputs]
    shown = [out["data"].get("text/markdown") for out in outputs if "data" in out]
    assert figures.claims() in shown


def test_tables_show_what_the_results_hold():
    shown = figures.table(find_runs(ROOT / "results" / "demo"))
    assert section("README.md", "demo") == f"```\n{shown}\n```"


def test_the_results_of_the_demo_are_those_of_its_setting():
    asked = [
        asdict(replace(line.options, norm_eps=1e-12)) for line in lines_of(EXPERIMENTS["demo"])
    ]
    runs = find_runs(ROOT / "results" / "demo")
    for run, options_of_line in zip(runs, asked, strict=True):
        named = {key: run.config[key] for key in options_of_line.keys() & run.config.keys()}
        assert named == {key: options_of_line[key] for key in named}


PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_pages_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", text)
    for link, _ in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link
    heading = re.compile(r"^#+ (.*)$", re.MULTILINE)
    for link, anchor in links:
        if anchor:
            titles = heading.findall((page.parent / link).read_text())
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
        known = {
            "train.py": Train, "test.py": Measure, "run_train_and_test.py": Driver,
        }.get(words[0])  # fmt: skip
        if known and "<" not in command:  # a placeholder
            parse(known, words[1:], words[0], command)


def requirements(name):
    """The packages of a requirements file with what is asked of each, for a new Python."""
    lines = (ROOT / name).read_text().splitlines()
    found = [re.split("[;#]", line)[0].strip() for line in lines if '< "3.11"' not in line]
    return dict(re.findall(r"^([a-z-]+)(.*)$", "\n".join(found), re.MULTILINE))


def test_the_code_of_the_page_on_scripts_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "scripting.md").read_text()
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    figures.plt.close("all")
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(find_runs(ROOT / "results/demo"))
    for name, column in names["run"].log().items():
        np.testing.assert_array_equal(names["log"][name], column)  # NaN where not evaluated


def test_conda_and_pip_requirements_are_the_same():
    needed, pinned = requirements("requirements.txt"), requirements("constraints.txt")
    conda = yaml.safe_load((ROOT / "cycle_env.yml").read_text())["dependencies"]
    assert {*conda[-1]["pip"]} == {name + pinned[name] for name in needed}
    assert any(re.fullmatch(r"python=3\.1\d", str(d)) for d in conda)


def test_pinned_versions_lie_in_the_tested_ranges():
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


@pytest.mark.parametrize("words", [["options.py"], ["-m", "theory.toy"]], ids=" ".join)
def test_scripts_without_options_refuse_them(words):
    done = subprocess.run(
        [sys.executable, *words, "--foo"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "--foo" in done.stderr and not done.stdout


def test_only_scripts_know_the_command_line():
    for folder in ("training", "models", "theory", "runs"):
        for path in (ROOT / folder).glob("*.py"):
            assert not re.search(r"\btyro\b|import .*\bparse\b", path.read_text()), path


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
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert any("learning rate" in output.get("text", "") for output in outputs)


def test_notebook_without_runs_says_what_to_do_and_shows_the_results(tmp_path, monkeypatch, capsys):
    """Its cells run here, and nothing is drawn to the last pixel."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("EXPERIMENTS", str(tmp_path))
    shown, names, picture = [], {}, PIL.Image.new("RGB", (4, 4))
    monkeypatch.setattr("IPython.display.display", lambda *what: shown.extend(what))
    monkeypatch.setattr(figures.plt, "savefig", lambda file, dpi: picture.save(file, "PNG"))
    with figures.plt.rc_context():
        for cell in nbformat.read(ROOT / "Plots.ipynb", as_version=4).cells:
            if cell.cell_type == "code":
                exec(cell.source, names)
    assert "make demo" in capsys.readouterr().out
    titles = [what.data for what in shown if isinstance(what, Markdown)]
    assert {"### demo", "### figure2_cpu", "### three_regimes_cpu"} <= set(titles)
    assert len([what for what in shown if isinstance(what, PIL.Image.Image)]) >= 10
    links = re.findall(r"\]\(([^)]+)\)", titles[-1])
    assert all((ROOT / link).exists() for link in links)
    assert {f"results/claims/{f.name}" for f in (ROOT / "results/claims").glob("*.png")} <= {*links}
    assert not figures.plt.get_fignums()
