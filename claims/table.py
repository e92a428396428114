"""How the claims are told: the tables of README.md and docs/claims.md, from what is on record.

`claims.json` holds verdicts and estimates of trials from 40 on, `exploratory.json` the estimates
from the numbers of trials 10 to 34, which had been seen when the margins were chosen.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from claims.claim import CLAIMS, PARTS, Claim
from utils import UserError, write_atomically

NOT_RUN = "not run yet"
SAMPLES = {"Digits": "digits", "CIFAR10": "CIFAR-10"}
HEAD = {
    "README.md": [
        "the papers say",
        "found, 95 % interval",
        "verdict",
        "rests on",
        "not known beyond",
    ],
    "docs/claims.md": ["paper", "claim", "found", "margin", "verdict", "seeds, power", "commit"],
}


def short(name: str, value: float | None, low: float | None, high: float | None) -> str:
    """One estimate in words: "exponent of frequency 1.13 [1.04, 1.22]"."""
    if value is None:
        return f"{name}: none"
    digits = 2 if abs(value) >= 0.1 or value == 0 else 4
    limits = "" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{name} {value:.{digits}f}{limits}"


def found(
    estimates: Sequence[Mapping[str, Any]], judged: bool = True, headline: bool = False
) -> str:
    """Estimates in a few words; those of one quantity in several settings together.

    The name of an estimate is "<setting>: <quantity>". With `headline` only the first quantity.
    """
    groups: dict[str, list[Mapping]] = {}
    for estimate in estimates:
        if not judged or estimate.get("inside"):
            groups.setdefault(estimate["name"].split(": ")[-1], []).append(estimate)
    words = []
    for quantity, group in groups.items():
        known = [e for e in group if e["value"] is not None]
        if len(group) == 1 or not known:
            e = group[0]
            words.append(short(e["name"], e["value"], e["low"], e["high"]))
            continue
        values = [e["value"] for e in known]
        lows = [e["low"] for e in known if e["low"] is not None]
        highs = [e["high"] for e in known if e["high"] is not None]
        limits = f" [{min(lows):.2f}, {max(highs):.2f}]" if lows else ""
        ends = " to ".join(dict.fromkeys(f"{v:.2f}" for v in (min(values), max(values))))
        words.append(f"{quantity} {ends}{limits} in {len(group)} settings")
    return "; ".join(words[:1] if headline else words)


def margins(entry: Mapping | None) -> str:
    """The margins of the estimates on record, exploratory ones before a claim is run."""
    estimates = entry["estimates"] if entry else []
    shown = dict.fromkeys(interval(e["inside"]) for e in estimates if e.get("inside"))
    return ", ".join(shown) or "in its design"


def interval(inside: Sequence[float | None]) -> str:
    low, high = inside
    if high is None:
        return f"> {low:g}"
    return f"< {high:g}" if low is None else f"{low:.3g} to {high:.3g}"


def told(
    claim: Claim, record: Mapping, exploratory: Mapping, headline: bool = False
) -> tuple[str, str]:
    """What was found, in words, and the verdict."""
    if claim.key in record:
        entry = record[claim.key]
        words = entry.get("reason") or found(entry["estimates"], headline=headline)
        return words, entry["verdict"]
    before = exploratory.get(claim.key)
    if before is None:
        return "no exploratory estimate", NOT_RUN
    words = found(before["estimates"], headline=headline) or found(
        before["estimates"], judged=False, headline=headline
    )
    return f"*{words}*", NOT_RUN


def in_order() -> list[Claim]:
    """The claims by paper, those that nobody claims last."""
    return sorted(CLAIMS, key=lambda claim: (claim.paper == "new", claim.paper))


def rests_on(claim: Claim) -> str:
    data = dict.fromkeys(SAMPLES[setting.options.dataset] for setting in claim.settings)
    seeds = " and ".join(map(str, dict.fromkeys(claim.seeds)))
    return f"{seeds} seeds, {' and '.join(data)}" if data else "256 starts"


def readme_table(record: Mapping, exploratory: Mapping) -> str:
    """A line for each claim of the papers; the rows that measure it together."""
    papers: dict[str, list[Claim]] = {}
    for claim in in_order():
        if claim.paper != "new":
            papers.setdefault(claim.paper, []).append(claim)
    rows = []
    for claims in papers.values():
        words = [told(claim, record, exploratory, headline=True) for claim in claims]
        limits = (claim.design["Limits"].split("; ")[0].rstrip(".") for claim in claims)
        rows.append([
            "<br>".join(f"[{claim.statement}](docs/claims.md#{claim.key})" for claim in claims),
            "<br>".join(text for text, _ in words),
            "<br>".join(verdict for _, verdict in words),
            "<br>".join(dict.fromkeys(map(rests_on, claims))),
            "; ".join(dict.fromkeys(limits)),
        ])  # fmt: skip
    return summary(record) + "\n\n" + markdown(HEAD["README.md"], rows)


def summary(record: Mapping) -> str:
    """One sentence: how many are supported, undecided, contradicted, and not run."""
    counts = dict.fromkeys(("supported", "undecided", "contradicted", NOT_RUN), 0)
    for claim in CLAIMS:
        counts[record.get(claim.key, {}).get("verdict", NOT_RUN)] += 1
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return (
        f"Of {len(CLAIMS)} claims {words}, by margins that were fixed before the runs. All are "
        "CPU-sized, none of published size. Estimates in italics are exploratory: they come from 3 "
        "to 5 seeds that had been seen when the margins were chosen, and decide nothing. "
        "[docs/claims.md](docs/claims.md) has every estimate and margin."
    )


def page_table(record: Mapping, exploratory: Mapping, link: str = "#{}") -> str:
    """A line for each claim, or for each that is on record; `link` is where its name leads."""
    rows = []
    for claim in in_order():
        if not exploratory and claim.key not in record:
            continue
        entry = record.get(claim.key)
        words, verdict = told(claim, record, exploratory)
        seeds = ", ".join(map(str, dict.fromkeys(claim.seeds))) or "-"
        planned = f"{seeds}; {100 * claim.power[1]:.0f} % for {claim.power[0]}"
        commit = entry["code"][:7] if entry else "-"
        name = claim.statement
        if entry or link.startswith("#"):
            name = f"[{name}]({link.format(claim.key)})"
        margin = margins(entry or exploratory.get(claim.key))
        rows.append([claim.paper, name, words, margin, verdict, planned, commit])
    return markdown(HEAD["docs/claims.md"], rows)


def page_designs() -> str:
    """Four lines a claim."""
    parts = []
    for claim in in_order():
        lines = [f"- *{name}*: {claim.design[name]}" for name in PARTS]
        parts.append("\n".join([f"### {claim.key}", *lines]))
    return "\n\n".join(parts) + "\n"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    every = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |\n" for row in every)


def sections(folder: Path) -> dict[str, dict[str, str]]:
    """What README.md and docs/claims.md say between their markers, by file and marker."""
    record, exploratory = read(folder / "claims.json"), read(folder / "exploratory.json")
    return {
        "README.md": {"claims": readme_table(record, exploratory)},
        "docs/claims.md": {"claims": page_table(record, exploratory), "designs": page_designs()},
    }


def write_pages(folder: Path, root: Path) -> None:
    """Put the sections into the pages below `root`, between their markers."""
    for page, parts in sections(folder).items():
        text = (root / page).read_text()
        for marker, content in parts.items():
            text = re.sub(
                rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)",
                lambda match, content=content: match[1] + content + match[2], text, flags=re.DOTALL,
            )  # fmt: skip
        write_atomically(root / page, text.encode())


def read(path: Path) -> dict[str, dict]:
    """The entries of a record by claim; none where there is no such file.

    Raises
    ------
    UserError : it is damaged.
    """
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content["claims"], dict):
            return content["claims"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} is damaged: move it away, or name another folder with --results")
