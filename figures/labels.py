"""Names of runs in figures and tables: the options in which they differ, and nothing else."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from figures.style import colours, shades
from runs import Run, differing_options

MOST = 16  # lines in a figure
LONGEST = 30  # letters of an option's text
RATES = ("lr_init", "elr", "fix_elr", "fix_all_elr")
SEEDS = ("seed", "trial")
NAMES = {
    "wd": "λ",
    "num_channels": "width",
    "fix_si_pnorm_value": "ρ",
    "noninvlr": "η of the other weights",
    "use_data_size": "images",
    "corrupt_train": "corrupted labels",
}
SWITCHES = {
    "fix_si_pnorm": ("norm held", "norm free"),
    "noaug": ("no augmentation", "augmentation"),
    "fbgd": ("full batch", "mini-batches"),
    "use_squared_loss": ("squared loss", "cross-entropy"),
    "no_schedule": ("constant rate", "schedule"),
    "cosan_schedule": ("cosine", "no cosine"),
}


class Line(NamedTuple):
    """What a figure draws in one colour: a setting and its runs, which differ only in the seed."""

    label: str
    colour: str
    runs: list[Run]


def on_sphere(runs: Sequence[Run]) -> bool:
    """Whether all runs were trained at a fixed effective learning rate."""
    return all(run.on_sphere for run in runs)


def differ(runs: Sequence[Run], key: str) -> bool:
    return len({run.config.get(key) for run in runs}) > 1


def lines_of(runs: Sequence[Run]) -> tuple[list[Line], str]:
    """The lines of a figure, 16 at most, and a note that says how many are left out."""
    settings = by_setting(runs)
    places = np.linspace(0, len(settings) - 1, min(MOST, len(settings))).round().astype(int)
    chosen = [settings[place] for place in places]
    names = labels([group[0] for group in chosen], without=SEEDS)
    counts = [f"{len(group)} seeds" if len(group) > 1 else "" for group in chosen]
    names = [_join(name, count) for name, count in zip(names, counts, strict=True)]
    palette = shades(chosen) if on_sphere(runs) else colours(chosen)
    left_out = len(settings) - len(chosen)
    note = f"{len(chosen)} of {len(settings)} settings are drawn" if left_out else ""
    return [Line(*parts) for parts in zip(names, palette, chosen, strict=True)], note


def by_setting(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs, grouped by setting: those of a group differ only in the seed."""
    deciding = [key for key in differing_options([run.config for run in runs]) if key not in SEEDS]
    groups: dict[tuple, dict[tuple, Run]] = {}
    for run in runs:
        config = run.config
        same = [repr(config.get(key)) for key in (*deciding, "name", "resume_epoch")]
        seed = tuple(config.get(key) for key in SEEDS)
        for copy in itertools.count():  # a copy of a run is not a second seed
            group = groups.setdefault((*same, copy), {})
            if seed not in group:
                group[seed] = run
                break
    return [[*group.values()] for group in groups.values()]


def label(run: Run, among: Sequence[Run]) -> str:
    """The name of one run among others; a single run is named by its learning rate."""
    return labels(among)[[other.folder for other in among].index(run.folder)]


def labels(runs: Sequence[Run], without: Sequence[str] = (), unique: bool = True) -> list[str]:
    """A name for each run: the rate and every other option, but those in `without`, in which they
    differ. If names must be `unique`, equal ones are told apart by seed, length or folder."""
    keys = [key for key in differing_options([run.config for run in runs]) if key not in without]
    names = [run.config.get("name") or _name(run, runs, keys, without) for run in runs]
    if not unique:
        return names
    if len(runs) == 1 and not names[0]:
        return [_rate(runs[0])]
    for name in [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        equal = [i for i, other in enumerate(names) if other == name]
        seeds = [_join(*(_words(k, runs[i].config) for k in keys if k in SEEDS)) for i in equal]
        lengths = [f"{runs[i].config.get('epochs')} epochs" for i in equal]
        folders = [runs[i].folder.parts for i in equal]
        shared = set.intersection(*map(set, folders))
        parts = ["/".join(part for part in folder if part not in shared) for folder in folders]
        telling = next((t for t in (seeds, lengths) if len({*t}) == len(equal)), parts)
        for i, more in zip(equal, telling, strict=True):
            names[i] = _join(name, more)
    return names


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _rate(run: Run) -> str:
    return f"ELR = {run.config['elr']:g}" if run.on_sphere else f"η = {run.config['lr_init']:g}"


def _name(run: Run, runs: Sequence[Run], keys: Sequence[str], without: Sequence[str]) -> str:
    """Rate, other options and branch, as far as the runs differ in them; seeds are left out."""
    parts = []
    if len({_rate(other) for other in runs}) > 1 and not {"elr", "lr_init"} & set(without):
        parts = [_rate(run)]
    parts += [_words(key, run.config) for key in keys if key not in (*RATES, *SEEDS, "epochs")]
    if len({other.config.get("resume_epoch") for other in runs}) > 1 and run.is_branch:
        parts.append(f"from epoch {run.config['resume_epoch']}")
    return _join(*parts)


def _words(key: str, config: dict[str, Any]) -> str:
    value, name = config.get(key), NAMES.get(key, key.replace("_", " "))
    if key == "fix_si_pnorm_value" and (not config.get("fix_si_pnorm") or value <= 0):
        return ""  # the initial norm: "norm held" is enough
    if key == "momentum" and config.get("optimizer", "sgd") != "sgd":
        return ""  # it belongs to SGD
    if key == "noninvlr" and value == -1:
        return "one η for all weights"
    if key in SWITCHES:
        return SWITCHES[key][not value]
    if value is None and key == "use_data_size":
        return "all images"
    if value is None or isinstance(value, bool):
        return name if value else f"no {name}"
    if key == "norm":
        return f"{value} normalisation"
    if key in SEEDS:
        return f"{key} {value}"
    if isinstance(value, str):
        value = value.rpartition("/")[2]
        return value if len(value) <= LONGEST else f"…{value[1 - LONGEST :]}"
    return f"{name} = {value:g}" if isinstance(value, int | float) else f"{name} = {value}"
