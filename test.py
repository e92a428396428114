"""Measure the checkpoints of one run and write the results as arrays into one .npz file.

    python test.py --models_dir Experiments/first/trial_0 --train_mode --eval_model --all_pnorm \\
        --calc_grad_norms

Data and network are those of the run's config.json unless the command line says otherwise; for
checkpoints without one (of the official code) the command line gives them.
"""

import argparse
import time
from pathlib import Path

from tqdm import tqdm

import checkpoints
import data
import metrics
import models
import runs
from device import describe, memory_format, mix, select_device
from options import FROM_RUN, test_options
from utils import UserError, user_errors

SAVE_EVERY = 30  # seconds between two writings of what is measured so far


def main(argv: list[str] | None = None) -> None:
    with user_errors("test.py"):
        options, words = test_options(argv)
        measure_run(options, words)


def measure_run(options: argparse.Namespace, words: set[str]) -> None:
    """All checkpoints of one run. `words` are the options that the command line itself gave."""
    folder = Path(options.models_dir).expanduser()
    found = runs.checkpoints(folder)
    if not found:
        raise UserError(f"no checkpoint-<epoch>.pt in {folder}: --models_dir is DIR/trial_<t>")
    try:
        config = runs.read_config(folder)
    except FileNotFoundError:
        config = {}
    for key in FROM_RUN:
        if key in config and key not in words:
            setattr(options, key, config[key])

    device = select_device(options.gpu)
    layout = memory_format(device, options.num_channels)
    images = image_set(options, run_uses_test=config.get("use_test", True)).to(device, layout)
    model = models.build(options.model, images.num_classes, options.num_channels, options.depth)
    model.to(device, memory_format=layout)

    wanted = metrics.Wanted.from_flags(key for key, value in vars(options).items() if value is True)
    files = {"si" if options.prebn_only else "all": save_path(options, folder)}
    if options.prebn_save_path:
        files["si"] = npz(options.prebn_save_path)
    scopes = {scope: metrics.parameter_names(model, scope == "si") for scope in files}
    names = {scope: wanted.names(scopes[scope]) for scope in files}
    tables = {
        scope: runs.Metrics.read_if_there(path) if options.update else runs.Metrics()
        for scope, path in files.items()
    }

    meter = metrics.Meter(
        model,
        images,
        wanted,
        train_mode=options.train_mode,
        batch_size=options.batch_size,
        scopes=scopes,
        augment_seed=mix(options.seed) if options.use_aug else None,
        vector_seed=mix(options.seed),
    )
    print(f"{folder}: {len(found)} checkpoints on {describe(device)}", flush=True)
    saved = time.monotonic()
    for (epoch, step), path in tqdm(found.items(), disable=None):
        content = checkpoints.load(path) if step else None
        now = content["epoch"] if step else epoch
        if not any(tables[scope].lacks(now, names[scope]) for scope in files):
            continue
        checkpoints.load_weights(model, content or checkpoints.load(path), path)
        for scope, row in meter.measure().items():
            tables[scope].add(now, row)
        if time.monotonic() - saved > SAVE_EVERY:
            write_tables(tables, files)
            saved = time.monotonic()
    write_tables(tables, files)
    print("wrote " + ", ".join(str(path) for path in files.values()))


def image_set(options: argparse.Namespace, run_uses_test: bool) -> data.ImageSet:
    """The images to measure on: the test set, or the images that the run was trained on."""
    train, test = data.load(
        options.dataset,
        options.data_path,
        use_test=options.use_test or run_uses_test,
        use_data_size=None if options.use_test else options.use_data_size,
        corrupt_train=None if options.use_test else options.corrupt_train,
    )
    images = test if options.use_test else train
    count = options.eval_on_random_subset
    if count is None:
        return images
    if count > len(images):
        raise UserError(f"--eval_on_random_subset {count} is more than the {len(images)} images")
    return random_subset(images, count, options.seed)


def random_subset(images: data.ImageSet, count: int, seed: int) -> data.ImageSet:
    import torch

    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(mix(seed)))
    return images.subset(order[:count])


def npz(name: str) -> Path:
    """The path with the ending .npz, which NumPy's savez adds too."""
    path = Path(name).expanduser()
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def save_path(options: argparse.Namespace, folder: Path) -> Path:
    """Where the results go: the file asked for, or train-tm.npz and the like beside the run."""
    if options.save_path:
        return npz(options.save_path)
    name = ("test" if options.use_test else "train") + ("-tm" if options.train_mode else "-em")
    return folder / f"{name}{'-prebn' if options.prebn_only else ''}.npz"


def write_tables(tables: dict[str, runs.Metrics], files: dict[str, Path]) -> None:
    for scope, path in files.items():
        tables[scope].write(path)


if __name__ == "__main__":
    main()
