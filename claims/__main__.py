"""The papers' claims, measured: trains what is needed, and writes a table of what holds.

    python -m claims --scale quick            # a few lines, one trial: minutes (`make claims`)
    python -m claims --trials 3               # the real one on a CPU (`make claims-full`)
    python -m claims --scale paper            # the settings of the papers, for a GPU

For every claim a function takes the finished runs of its experiments and returns what it found: a
sentence with the spread over the trials, whether the claim holds by the rule that the claim states,
all numbers, and a figure. Written: claims.md (the table), claims.json and a PNG for each claim.
"""

import json
from pathlib import Path

import figures
from claims.table import CLAIMS, environment, measure_all, table, training_seconds
from experiments.lines import ROOT
from options import TRAIN, Option, Parser, integer, one_of
from utils import user_errors, write_atomically

OPTIONS = (
    Option("--scale", one_of(("quick", "demo", "paper")), "demo", "quick, demo (CPU), paper (GPU)"),
    Option("--trials", integer(1), 1, "independent repetitions of every line"),
    Option("--jobs", integer(1), 1, "lines that run at once"),
    Option("--results", str, None, "folder for table and figures (Experiments/claims_<scale>)"),
)


def main(argv: list[str] | None = None) -> None:
    options = Parser(OPTIONS, prog="claims.py", description=__doc__.split("\n")[0]).parse_args(argv)
    folder = Path(options.results or ROOT / f"claims_{options.scale}")
    figures.plt.switch_backend("agg")
    findings = measure_all(options.scale, options.trials, options.jobs)
    for key, finding in findings.items():
        figures.save(finding.figure, folder / f"{key}.png")
    record = {
        "scale": options.scale,
        "trials": options.trials,
        "seed": next(option.default for option in TRAIN if option.key == "seed"),
        "training_seconds": round(training_seconds(options.scale)),
        **environment(),
        "claims": {
            c.key: {"claim": c.statement, "source": c.source, "holds": bool(findings[c.key].holds),
                    "measured": findings[c.key].measured, **findings[c.key].numbers}
            for c in CLAIMS
        },
    }  # fmt: skip
    text = json.dumps(record, indent=1, default=float, ensure_ascii=False)
    write_atomically(folder / "claims.json", text.encode())
    write_atomically(folder / "claims.md", table(findings).encode())
    for claim in CLAIMS:
        finding = findings[claim.key]
        print(f"\n{claim.source}: {claim.statement}")
        print(f"    {'holds' if finding.holds else 'does NOT hold'}: {finding.measured}")
    print(f"\n{folder / 'claims.md'}")


if __name__ == "__main__":
    with user_errors("claims"):
        main()
