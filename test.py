"""Measure the checkpoints of one run and write the results as arrays into one .npz file.

    python test.py --models_dir Experiments/first/trial_0 --train_mode --eval_model --all_pnorm \\
        --calc_grad_norms

Data and network are those of the run's config.json unless the command line says otherwise.
Checkpoints without one are taken as the official code's: the command line gives data and network.
"""

from options import FROM_RUN, NO_EFFECT_IN_TEST, Measure, chosen_epochs, measure_options
from utils import UserError, end_quietly, plural, remove_litter, user_errors

if __name__ == "__main__":  # before the imports below, which take seconds
    end_quietly("test.py")
    with user_errors("test.py"):
        measure_options()

import errno
import functools
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import data
import models
import runs
from measuring import Meter, parameter_names, wanted
from measuring.rebuild import network
from measuring.trial import try_measuring
from runs import checkpoints
from training.device import describe, memory_format, seed_from, select_device

# Time between two writes of the results so far: seconds, and as a multiple of a write's time.
WRITE_EVERY, WRITING_SHARE = 2, 10
RANDOM_SUBSET = 5000  # images of --eval_on_random_subset without a number


def main(argv: list[str] | None = None) -> None:
    with user_errors("test.py"):
        measure_run(*measure_options(argv))


def measure_run(options: Measure, given: set[str]) -> None:
    """Measure all checkpoints of one run, or those asked for, and write the .npz files. Of the
    options that are not `given` on the command line, those in `FROM_RUN` are the run's. Raises
    UserError for a mistake in the options, or in what the folder holds."""
    # The checkpoints, and the options that they were trained with
    folder, found = chosen_checkpoints(options)
    config = runs.OFFICIAL
    if (folder / runs.CONFIG).exists():
        config = runs.read_config(folder)
    else:
        print(f"note: {folder} has no {runs.CONFIG}: measured as the official code's checkpoints")
    own = {key: config[key] for key in FROM_RUN if key in config and key not in given}
    options = replace(options, **own)
    idle = [f"--{n} ({why})" for n, why in NO_EFFECT_IN_TEST.items() if n in given]
    if options.eval_on_train_subsets and options.use_test:
        idle.append("--eval_on_train_subsets (the labels of the test set are all true)")
        options = replace(options, eval_on_train_subsets=False)
    if options.use_test:
        on_train = given & {"use_data_size", "corrupt_train"}
        idle += [f"--{name} (the test set is measured)" for name in sorted(on_train)]
    elif "use_test_size" in given:
        idle.append("--use_test_size (the training set is measured)")
    if "save_freq_int" in given and config is not runs.OFFICIAL:
        idle.append("--save_freq_int (the checkpoints hold their times)")
    if idle:
        print(f"note: changes nothing: {'; '.join(idle)}")

    # The files
    files = result_files(options, folder)
    for path in files.values():
        remove_litter(path.parent)
        place = next(parent for parent in path.resolve().parents if parent.exists())
        if not os.access(place, os.W_OK):  # rather now than when all is measured
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
    every = runs.checkpoints_in(folder)
    is_part = options.epochs is not None or folder != Path(options.models_dir).expanduser()
    add = options.update or is_part
    # A file that is to be added to is read in any case, as it is refused if it is damaged. Without
    # --update all is measured anew: what is there may be of other images, or of another seed.
    before = {scope: runs.Metrics.read(path) if add else runs.Metrics()
              for scope, path in files.items()}  # fmt: skip
    tables = before if options.update else {scope: runs.Metrics() for scope in files}
    replaced = [path for path in files.values() if not add and path.exists()]
    refuse_to_lose(replaced, folder)

    # Images and network
    if models.own.is_own(options.model):
        models.own.find_function(options.model)  # report a wrong name before loading data
    device = select_device(options.gpu, options.deterministic)
    layout = memory_format(device, options.num_channels, options.norm)
    images = image_set(options, run_uses_test=config.get("use_test", True)).to(device, layout)
    si_weights = config.get("si_weights") if options.model == config.get("model") else None
    model = network(options, images, si_weights)
    scopes = {scope: parameter_names(model, si_only=scope == "si") for scope in files}
    compared = options.calc_cos_init or options.calc_l2_init
    initial = initial_weights(model, folder) if compared else None
    if models.own.is_own(options.model):
        try_measuring(model, images, options, scopes, initial)

    @functools.cache
    def meter_of(part: Measure) -> Meter:
        return Meter(model, images, part, scopes, initial, progress=True)

    def missing(epoch: float) -> Measure | None:
        """What must be measured at this epoch; None if the files have it all."""
        rows = [(tables[scope].rows.get(epoch, {}), scopes[scope]) for scope in files]
        return wanted.lacking(options, rows)

    print(f"{folder}: {plural(len(found), 'checkpoint')} on {describe(device)}", flush=True)
    # Checkpoints within an epoch hold their time; official ones do not and are evenly spaced.
    official = config is runs.OFFICIAL
    largest = max(part for _, part in every)
    parts = options.save_freq_int or 1 + largest
    if official and largest >= parts:
        raise UserError(f"--save_freq_int {parts}: there is a checkpoint-<epoch>-{largest}.pt")
    written, pause, passed_over, complete = time.monotonic(), WRITE_EVERY, [], False
    try:
        for (epoch, part), path in tqdm(found.items(), disable=None):
            now = epoch + part / parts if official or not part else None
            if now is not None and missing(now) is None:
                continue
            try:
                content = checkpoints.load(path)
            except UserError as error:
                tqdm.write(f"note: passed over: {error}")
                passed_over.append((epoch, part))
                continue
            now = content["epoch"] if now is None else now
            lacking = missing(now)
            if lacking is None:
                continue
            checkpoints.load_weights(model, content, path)
            for scope, row in meter_of(lacking).measure().items():
                tables[scope].add(now, row)
            if not replaced and time.monotonic() - written > pause:
                began = time.monotonic()
                write_tables(tables, files, add=True)
                written = time.monotonic()
                pause = max(WRITE_EVERY, WRITING_SHARE * (written - began))
        readable = found.keys() - passed_over
        complete = not any(without_checkpoint(path, readable) for path in replaced)
    finally:
        if replaced and not complete:
            tqdm.write(f"note: {replaced[0]} stays as it was: only a complete file replaces it")
        elif any(table.rows for table in tables.values()):
            write_tables(tables, files, add=not replaced)
    if len(passed_over) == len(found):
        raise UserError(f"none of the {plural(len(found), 'checkpoint')} in {folder} can be read")
    if not complete:
        raise UserError(f"{replaced[0]} has epochs whose checkpoints are damaged, which would be "
                        "lost: --update adds to it, --save_path names another file")  # fmt: skip
    print("wrote " + ", ".join(str(path) for path in files.values()))


def chosen_checkpoints(options: Measure) -> tuple[Path, dict[tuple[int, int], Path]]:
    """The folder, and those of its checkpoints that are asked for: (epoch, part of it) -> file.
    Raises UserError if there is none, or none of an epoch that is named."""
    path = Path(options.models_dir).expanduser()
    folder = path.parent if path.is_file() else path
    found = runs.checkpoints_in(folder)
    if not found or (path.is_file() and path not in found.values()):
        raise UserError(f"no checkpoint-<epoch>.pt in {path}: --models_dir is DIR/trial_<t>")
    if path.is_file():
        if options.epochs is not None:
            raise UserError(f"--epochs chooses checkpoints of a folder, and {path} is one")
        return folder, {key: file for key, file in found.items() if file == path}
    if options.epochs is None:
        return folder, found
    epochs = chosen_epochs(options.epochs)
    whole = runs.whole_epochs(folder)
    chosen = {(epoch, 0): file for epoch, file in whole.items() if epoch in epochs}
    absent = [epoch for epoch in epochs if epoch not in whole] if isinstance(epochs, list) else []
    if absent or not chosen:
        which = f"checkpoint-{absent[0]}.pt" if absent else f"checkpoint of {options.epochs}"
        there = f"there are {plural(len(whole), 'epoch')}"
        there += f" from {min(whole)} to {max(whole)}" if whole else ""
        raise UserError(f"no {which} in {folder}: {there}")
    return folder, chosen


def result_files(options: Measure, folder: Path) -> dict[str, Path]:
    """Where the results of all weights ("all") go, and those of the SI weights ("si"): without
    --save_path to train-tm.npz and the like beside the checkpoints."""
    name = ("test" if options.use_test else "train") + ("-tm" if options.train_mode else "-em")
    default = folder / f"{name}{'-prebn' if options.prebn_only else ''}.npz"
    path = npz(options.save_path) if options.save_path else default
    if not options.prebn_save_path:
        return {"si" if options.prebn_only else "all": path}
    files = {"all": path, "si": npz(options.prebn_save_path)}
    if files["si"].resolve() == files["all"].resolve():
        raise UserError("--save_path and --prebn_save_path are the same file")
    return files


def npz(name: str) -> Path:
    """The path with the ending .npz, which NumPy's savez adds too."""
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder; the results go to one file, as {path}/train-tm.npz")
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def refuse_to_lose(paths: Sequence[Path], folder: Path) -> None:
    """Raise UserError if a file that would be replaced has epochs whose checkpoints are gone: they
    cannot be measured again."""
    for path in paths:
        lost = without_checkpoint(path, runs.checkpoints_in(folder))
        if lost:
            raise UserError(
                f"{path} has {plural(lost, 'epoch')} whose checkpoints are gone from {folder}, "
                "which would be lost: --update adds to it, --save_path names another file"
            )


def without_checkpoint(path: Path, found: Iterable[tuple[int, int]]) -> int:
    """How many times in a file of metrics are of none of these checkpoints: (epoch, part of it). A
    file does not say which parts of an epoch it has: they are counted. None if it is damaged."""
    try:
        times = runs.Metrics.read(path).rows
    except UserError:
        return 0
    there = Counter((int(time), time != int(time)) for time in times)
    return (there - Counter((epoch, part > 0) for epoch, part in found)).total()


def image_set(options: Measure, run_uses_test: bool) -> data.ImageSet:
    """The images to measure on: the test set, or the images that the run was trained on."""
    on_test = {"use_data_size": None, "corrupt_train": None}
    asked = replace(options, **on_test if options.use_test else {"use_test_size": None})
    train, test = data.load(asked, use_test=options.use_test or run_uses_test)
    images = test if options.use_test else train
    count = options.eval_on_random_subset
    if count is None:
        return images
    count = count or min(RANDOM_SUBSET, len(images))
    if count > len(images):
        raise UserError(f"--eval_on_random_subset {count} is more than the {len(images)} images")
    generator = torch.Generator().manual_seed(seed_from(options.seed))
    return images.subset(torch.randperm(len(images), generator=generator)[:count])


def initial_weights(model: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """The weights of checkpoint 0; of a branch, those of the run that it comes from."""
    folder = folder.absolute()  # "." has no name
    if not folder.name.startswith("branch-"):
        folder = folder.resolve()  # it may be a link to one
    while folder.name.startswith("branch-"):
        folder = folder.parent
    checkpoints.load_into(model, runs.checkpoint_path(folder, 0))
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def write_tables(tables: dict[str, runs.Metrics], files: dict[str, Path], add: bool) -> None:
    for scope, path in files.items():
        (tables[scope].merge if add else tables[scope].write)(path)


if __name__ == "__main__":
    main()
