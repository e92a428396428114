"""How the claims are told: the tables of README.md and docs/claims.md, from what is on record.

`claims.json` holds verdicts and estimates of trials from 40 on, `exploratory.json` the estimates
from the numbers of trials 10 to 34, which had been seen when the margins were chosen.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from claims.claim import CLAIMS, PARTS, Claim
from utils import UserError

NOT_RUN, NOT_JUDGED = "not run yet", "not judged"
SAMPLES = {"Digits": "digits", "CIFAR10": "CIFAR-10"}
README = ("the papers say", "found, 95 % interval", "verdict", "rests on", "not known beyond")
PAGE = ("paper", "claim", "found", "margin", "verdict", "planned seeds, power", "commit")


def read(path: Path) -> dict[str, dict]:
    """The entries of a record by claim; {} without a file. Raises UserError if it is damaged."""
    try:
        record = dict(json.loads(path.read_bytes())["claims"])
        is_whole = all("estimates" in entry for entry in record.values())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if is_whole:
        return record
    raise UserError(f"{path} is damaged: move it away, or name another folder with --results")


def found(estimates: Sequence[Mapping[str, Any]], headline: bool = False) -> str:
    """The judged estimates in words (all where none is): "exponent of frequency 1.13 [1.04, 1.22]".
    Those of one quantity in several settings are together; with `headline` the first one alone."""
    quantities: dict[str, list[Mapping]] = {}
    for estimate in [e for e in estimates if e["inside"]] or estimates:
        quantities.setdefault(estimate["name"].split(": ")[-1], []).append(estimate)
    words = []
    for quantity, group in quantities.items():
        values = [e["value"] for e in group if e["value"] is not None]
        limits = [e[end] for e in group for end in ("low", "high") if e[end] is not None]
        if not values:
            words.append(f"{group[0]['name']}: none")
            continue
        alone = len(group) == 1
        digits = 4 if alone and 0 < abs(values[0]) < 0.1 else 2
        value = " to ".join(dict.fromkeys(f"{v:.{digits}f}" for v in (min(values), max(values))))
        name = group[0]["name"] if alone else quantity
        interval = f" [{min(limits):.{digits}f}, {max(limits):.{digits}f}]" if limits else ""
        words.append(f"{name} {value}{interval}" + ("" if alone else f" in {len(group)} settings"))
    return "; ".join(words[:1] if headline else words)


def margin(inside: Sequence[float | None]) -> str:
    low, high = inside
    if high is None:
        return f"> {low:g}"
    return f"< {high:g}" if low is None else f"{low:.3g} to {high:.3g}"


def told(claim: Claim, record: Mapping, exploratory: Mapping, headline: bool = False) -> list[str]:
    """What was found, and the verdict; as a `headline` what the verdict rests on."""
    if claim.key in record:
        entry = record[claim.key]
        estimates = entry["estimates"]
        if headline:
            decisive = [e for e in estimates if e.get("verdict") == entry["verdict"]]
            estimates = decisive or estimates
        return [entry["reason"] or found(estimates, headline), entry["verdict"]]
    if claim.key in exploratory:
        return [f"*{found(exploratory[claim.key]['estimates'], headline)}*", NOT_RUN]
    return ["no exploratory estimate", NOT_RUN]


def in_order() -> list[Claim]:
    """The claims by paper, those that nobody claims last."""
    return sorted(CLAIMS.values(), key=lambda claim: (claim.paper == "new", claim.paper))


def readme_table(record: Mapping, exploratory: Mapping) -> str:
    """A line for each claim of the papers; the rows that measure it together."""
    papers: dict[str, list[Claim]] = {}
    for claim in in_order():
        if claim.paper != "new":
            papers.setdefault(claim.paper, []).append(claim)
    rows = []
    for claims in papers.values():
        links = [f"[{claim.statement}](docs/claims.md#{claim.key})" for claim in claims]
        words = [told(claim, record, exploratory, headline=True) for claim in claims]
        limits = [claim.design["Limits"].split("; ")[0].rstrip(".") for claim in claims]
        seeds = [rests_on(claim, record, exploratory) for claim in claims]
        columns = (links, *zip(*words, strict=True), seeds)
        rows.append([*map("<br>".join, columns), "; ".join(dict.fromkeys(limits))])
    return summary(record) + "\n\n" + markdown(README, rows)


def rests_on(claim: Claim, record: Mapping, exploratory: Mapping) -> str:
    """The number of seeds behind what was found, and their images."""
    if not claim.settings:
        return "256 starts"
    entry = record.get(claim.key) or exploratory.get(claim.key, {"estimates": []})
    estimates = [e for e in entry["estimates"] if e["inside"]] or entry["estimates"]
    counts = [len(estimate["seeds"]) for estimate in estimates] or claim.seeds
    data = [SAMPLES[setting.options.dataset] for setting in claim.settings]
    if len({*data}) > 1 and not any("images" in estimate["name"] for estimate in estimates):
        data = data[:1]  # the exploration was on digits alone
    seeds, samples = (" and ".join(map(str, dict.fromkeys(each))) for each in (counts, data))
    return f"{seeds} seeds, {samples}"


def summary(record: Mapping) -> str:
    """One sentence: how many are supported, undecided, contradicted, and not run."""
    counts = Counter(record[key]["verdict"] if key in record else NOT_RUN for key in CLAIMS)
    verdicts = ["supported", "undecided", "contradicted", NOT_RUN]
    verdicts += [NOT_JUDGED] if counts[NOT_JUDGED] else []
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in verdicts)
    return (
        f"Verdicts on {len(CLAIMS)} claims: {words}. The margins were fixed before the runs. All "
        "runs are sized for a CPU, none is of published size. Estimates in italics are exploratory "
        "and decide nothing: their seeds had been seen when the margins were chosen. Shares have "
        "one-sided 95 % bounds. [docs/claims.md](docs/claims.md) has the margins and designs."
    )


def page_table(record: Mapping, exploratory: Mapping, link: str = "#{}") -> str:
    """A line for each claim, or for each that is on record; `link` is where its name leads."""
    rows = []
    for claim in in_order():
        entry = record.get(claim.key)
        if not exploratory and not entry:
            continue
        words, verdict = told(claim, record, exploratory)
        seeds = ", ".join(map(str, dict.fromkeys(claim.seeds))) or "-"
        planned = f"{seeds}; {100 * claim.power[1]:.0f} % for {claim.power[0]}"
        linked = link.startswith("#") or (entry and entry["estimates"])  # has a figure
        name = f"[{claim.statement}]({link.format(claim.key)})" if linked else claim.statement
        estimates = (entry or exploratory.get(claim.key, {})).get("estimates", [])
        margins = dict.fromkeys(margin(e["inside"]) for e in estimates if e["inside"])
        shown = ", ".join(margins) or "in its design"
        commit = re.sub("^(.{7})[0-9a-f]*", r"\1", entry["code"]) if entry else "-"
        rows.append([claim.paper, name, words, shown, verdict, planned, commit])
    return markdown(PAGE, rows)


def page_designs(record: Mapping) -> str:
    """Four lines a claim, and the figure of one that is on record."""
    designs = []
    for claim in in_order():
        lines = [f"### {claim.key}", *(f"- *{part}*: {claim.design[part]}" for part in PARTS)]
        if record.get(claim.key, {}).get("estimates"):
            lines.append(f"- ![{claim.statement}: estimates](../results/claims/{claim.key}.png)")
        designs.append("\n".join(lines) + "\n")
    return "\n".join(designs)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    every = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |\n" for row in every)


def pages(folder: Path) -> dict[str, str]:
    """README.md and docs/claims.md with the record of a folder between their markers."""
    read_both = read(folder / "claims.json"), read(folder / "exploratory.json")
    designs = {"claims": page_table(*read_both), "designs": page_designs(read_both[0])}
    written = {}
    for page, parts in (
        ("README.md", {"claims": readme_table(*read_both)}), ("docs/claims.md", designs),
    ):  # fmt: skip
        text = Path(page).read_text()
        for marker, content in parts.items():
            begin, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
            before, after = text.split(begin)[0], text.split(end)[1]
            text = before + begin + content + end + after
        written[page] = text
    return written
