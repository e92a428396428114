"""What figures and tables call the runs that they compare: what differs, and nothing else."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

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
}


class Line(NamedTuple):
    """What a figure shows in one colour: a setting, and its runs, which differ in seed alone."""

    label: str
    colour: str
    runs: list[Run]


def on_sphere(runs: Sequence[Run]) -> bool:
    """Whether all runs were trained at a fixed effective learning rate."""
    return all(run.on_sphere for run in runs)


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
    """Runs that differ in nothing but the seed, together, in the order of the first of each."""
    deciding = [key for key in differing_options([run.config for run in runs]) if key not in SEEDS]
    groups: dict[tuple, dict[tuple, Run]] = {}
    for run in runs:
        config = run.config
        same = [repr(config.get(key)) for key in (*deciding, "name", "resume_epoch")]
        seed = tuple(config.get(key) for key in SEEDS)
        for copy in itertools.count():  # a run that is there twice is no second seed
            group = groups.setdefault((*same, copy), {})
            if seed not in group:
                group[seed] = run
                break
    return [[*group.values()] for group in groups.values()]


def label(run: Run, among: Sequence[Run]) -> str:
    """What tells a run from the others; of a single one its learning rate."""
    return labels(among)[[other.folder for other in among].index(run.folder)]


def labels(runs: Sequence[Run], without: Sequence[str] = (), unique: bool = True) -> list[str]:
    """What tells each of these runs from the others, the options `without` left aside.

    The rate and every other option in which they differ. To be `unique` equal ones get the seed,
    the length, or the part of the folder's name in which they differ; a single one is its rate.
    """
    keys = [key for key in differing_options([run.config for run in runs]) if key not in without]
    settings = [key for key in keys if key not in SEEDS]
    names = [run.config.get("name") or _name(run, runs, settings, without) for run in runs]
    if not unique:
        return names
    seeds = [_join(*(_words(key, run.config) for key in keys if key in SEEDS)) for run in runs]
    lengths = [f"{run.config.get('epochs')} epochs" for run in runs]
    for more in (seeds, lengths):
        for equal in _equal(names):
            if len({more[i] for i in equal}) == len(equal):
                for i in equal:
                    names[i] = _join(names[i], more[i])
    for equal in _equal(names):
        parts = _different_parts([runs[i].folder.parts for i in equal])
        for i, part in zip(equal, parts, strict=True):
            names[i] = _join(names[i], part)
    if len(runs) == 1 and not names[0]:
        return [_rate(runs[0])]
    return names


def _equal(names: Sequence[str]) -> list[list[int]]:
    """The places of each name that is there more than once."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return [equal for equal in places.values() if len(equal) > 1]


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _rate(run: Run) -> str:
    return f"ELR = {run.config['elr']:g}" if run.on_sphere else f"η = {run.config['lr_init']:g}"


def _name(run: Run, runs: Sequence[Run], keys: Sequence[str], without: Sequence[str]) -> str:
    rates = {_rate(other) for other in runs}
    parts = [_rate(run)] if len(rates) > 1 and not {"elr", "lr_init"} & set(without) else []
    for key in keys:
        if key not in (*RATES, "epochs"):
            parts.append(_words(key, run.config))
    branches = {other.config.get("resume_epoch") for other in runs}
    if len(branches) > 1:
        parts.append(f"from epoch {run.config['resume_epoch']}" if run.is_branch else "")
    return _join(*parts)


def _words(key: str, config: dict) -> str:
    """An option's value, in words."""
    value, name = config.get(key), NAMES.get(key, key.replace("_", " "))
    if key == "fix_si_pnorm_value" and (not config.get("fix_si_pnorm") or value <= 0):
        return ""  # its start's: "norm held" says it
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


def _different_parts(folders: Sequence[tuple[str, ...]]) -> list[str]:
    """Of each folder's path the parts that not all of them have."""
    shared = set.intersection(*map(set, folders))
    return ["/".join(part for part in folder if part not in shared) for folder in folders]
