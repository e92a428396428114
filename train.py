"""Train one network; save checkpoints, a log and the configuration in the run's folder.

    python train.py --dir Experiments/first --dataset Digits --num_channels 4 --epochs 50 \\
        --model ConvNetSI --noninvlr 0 --init_scale 10 --lr_init 1 --wd 0.001 --momentum 0 \\
        --noaug --no_schedule --use_test

The story of a run, in this order: options, folder, data, network, optimiser, loop. The random
numbers of an epoch are a function of seed, trial and epoch alone, so a run that goes on from any
of its checkpoints takes the same steps as one that was never interrupted.
"""

import argparse
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import checkpoints
import data
import metrics
import models
import recorder as recording
import runs
from device import describe, memory_format, mix, products, select_device
from options import train_options
from trainer import Trainer, schedule
from utils import UserError, duration, user_errors


def main(argv: list[str] | None = None) -> None:
    with user_errors("train.py"):
        options = train_options(argv)
        with products(options.precision):
            train(options)


def train(options: argparse.Namespace) -> None:
    """One run from its options to its last checkpoint. Raises UserError for a user's mistake."""
    # The folder, and where in it to start
    trial = runs.trial_folder(options.dir, options.trial)
    branch = options.resume_epoch
    folder = trial if branch is None else runs.branch_folder(trial, branch, vars(options))
    first = branch or 0  # the number of the run's first checkpoint
    last = first + options.epochs
    resumed = find_checkpoint(folder, options)
    if resumed is not None and resumed >= last and not options.metrics:
        print(f"{folder} is complete: checkpoint-{resumed}.pt is its last")
        return
    origin = None  # the checkpoint to start from
    if resumed is not None:
        origin = runs.checkpoint_path(folder, resumed)
    elif branch is not None:
        origin = runs.checkpoint_path(trial, branch)

    # Data
    device = select_device(options.gpu, options.deterministic)
    layout = memory_format(device, options.num_channels)
    train_images, eval_images = data.load(
        options.dataset,
        options.data_path,
        use_test=options.use_test,
        use_data_size=options.use_data_size,
        corrupt_train=options.corrupt_train,
    )
    train_images, eval_images = (part.to(device, layout) for part in (train_images, eval_images))

    # Network and optimiser
    torch.manual_seed(mix(options.seed, options.trial))
    model = models.build(
        options.model,
        train_images.num_classes,
        options.num_channels,
        options.depth,
        options.init_scale,
    )
    content = {} if origin is None else checkpoints.load(origin)
    if content:
        checkpoints.load_weights(model, content, origin)
    model.to(device, memory_format=layout)
    fixed_norm = content.get("fixed_norm") if resumed is not None else None
    trainer = Trainer(model, options, len(train_images), device, fixed_norm)
    if content:
        trainer.load_momentum(content)

    # What is measured and saved
    evaluator = metrics.Meter(
        model,
        eval_images,
        metrics.Wanted(eval_model=True),
        train_mode=False,
        batch_size=options.batch_size,
        scopes={"si": metrics.parameter_names(model, si_only=True)},
    )
    if resumed is None:
        remove_old_run(folder)
    runs.write_config(folder, {**vars(options), **environment(model, train_images, device)})
    recorder = None
    if options.metrics:
        test_images = recording.test_images(options, eval_images)
        recorder = recording.Recorder(folder, model, train_images, test_images, options)
        if recorder.catch_up() and content:
            checkpoints.load_weights(model, content, origin)
    steps = math.ceil(len(train_images) / options.batch_size)  # an epoch

    def time_of(epoch: int, step: int) -> float:
        return epoch + step / steps if step else epoch

    def record(epoch: int, step: int = 0) -> dict[str, Any]:
        """With --metrics, measure the present network; the results on the test set."""
        return recorder.add(time_of(epoch, step))["test-em"] if recorder else {}

    def save(epoch: int, step: int = 0, train_res: Any = None, test_res: Any = None) -> None:
        nothing = {"loss": None, "accuracy": None}
        now = time_of(epoch, step)
        checkpoints.save(
            runs.checkpoint_path(folder, epoch, step),
            {
                "epoch": now,
                "state_dict": model.state_dict(),
                "optimizer": trainer.optimizer_state(),
                "train_res": train_res or nothing,
                "test_res": test_res or nothing,
                "fixed_norm": trainer.fixed_norm,
                "config": vars(options),
            },
        )
        if options.keep is not None and recorder is None:
            runs.prune(folder, options.keep, options.keep_epochs)

    # The loop
    done = first if resumed is None else resumed  # epochs behind the present weights
    rows = [row for row in runs.read_log(folder) if row["epoch"] <= done]
    if resumed is None:
        record(done)
        save(done)
    print(f"{folder}: epochs {done} to {last} on {describe(device)}", flush=True)
    table = Table(done)
    for epoch in tqdm(range(done, last), initial=done - first, total=last - first, disable=None):
        began = time.perf_counter()
        lr = options.lr_init * schedule(options, (epoch - first) / options.epochs)
        trainer.set_lr(lr)
        generator = torch.Generator().manual_seed(mix(options.seed, options.trial, epoch))
        batches = train_images.batches(
            options.batch_size, generator, shuffle=True, augment=not options.noaug
        )
        for step, (images, labels) in enumerate(batches, 1):
            trainer.step(images, labels)
            if options.save_freq_int and step % options.save_freq_int == 0 and step < steps:
                record(epoch, step)
                save(epoch, step)
        train_res = trainer.finish_epoch()
        seconds = time.perf_counter() - began

        now = epoch + 1
        saved = runs.is_saved(now - first, options.save_freq) or now == last
        evaluated = (now - first) % options.eval_freq == 0 or now == last
        recorded = record(now) if saved else {}
        if recorded and options.use_test:
            test = recorded
        else:
            test = evaluator.measure()["si"] if evaluated else {}
        test_res = {"loss": test.get("loss"), "accuracy": test.get("acc")}
        si_norm = models.norm(trainer.si_weights).item()
        rows.append(
            {
                "epoch": now,
                "lr": lr,
                "train_loss": train_res["loss"],
                "train_acc": train_res["accuracy"],
                "test_loss": test_res["loss"],
                "test_acc": test_res["accuracy"],
                "si_norm": si_norm,
                "effective_lr": lr / si_norm**2,
                "seconds": seconds,
            }
        )
        if saved:
            save(now, 0, train_res, test_res)
        runs.write_log(folder, rows)
        table.show(rows[-1], last, evaluated)
    if recorder:
        recorder.write()


def find_checkpoint(folder: Path, options: argparse.Namespace) -> int | None:
    """The epoch to go on from with --resume; None to start at the beginning.

    Raises
    ------
    UserError : the folder holds a run, and it is not said what to do with it, or it is another one.
    """
    whole = [epoch for epoch, step in runs.checkpoints(folder) if step == 0]
    if not whole or options.overwrite:
        return None
    if not options.resume:
        raise UserError(f"{folder} already holds a run: give --resume or --overwrite")
    try:
        changed = runs.differences(runs.read_config(folder), vars(options))
    except FileNotFoundError:
        raise UserError(
            f"{folder} has checkpoints but no {runs.CONFIG}, so --resume cannot tell whether they "
            "belong to this run: branch off one with --resume_epoch, or name another --dir"
        ) from None
    if options.no_schedule:
        changed.pop("epochs", None)  # a constant rate can go on for longer
    if changed:
        what = ", ".join(f"{k} (saved {a}, asked {b})" for k, (a, b) in changed.items())
        raise UserError(f"{folder} holds another run; different: {what}")
    return whole[-1]


def remove_old_run(folder: Path) -> None:
    """Remove the files of an earlier run from its folder, so that two are never mixed."""
    names = [runs.CONFIG, runs.LOG, *(f"{name}.npz" for name in runs.METRICS)]
    for path in [*runs.checkpoints(folder).values(), *(folder / name for name in names)]:
        path.unlink(missing_ok=True)


def environment(model: torch.nn.Module, images: data.ImageSet, device: torch.device) -> dict:
    """What the configuration records beside the options."""
    si_weights, others = models.split_parameters(model)
    return {
        "num_classes": images.num_classes,
        "train_images": len(images),
        "si_parameters": sum(p.numel() for p in si_weights),
        "other_parameters": sum(p.numel() for p in others),
        "device": describe(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


class Table:
    """One line an evaluated epoch, and after the first epoch how long the rest will take."""

    HEADER = "epoch        lr  train loss  train err %  test loss  test err %         ρ  s/epoch"
    REPEATED = 40  # lines between two headers

    def __init__(self, first_epoch: int):
        self.first_epoch, self.lines = first_epoch, 0

    def show(self, row: dict[str, Any], last: int, evaluated: bool) -> None:
        if row["epoch"] == self.first_epoch + 1 and last > row["epoch"]:
            left = (last - row["epoch"]) * row["seconds"]
            tqdm.write(f"first epoch {row['seconds']:.2f} s: about {duration(left)} to train")
        if evaluated:
            if self.lines % self.REPEATED == 0:
                tqdm.write(self.HEADER)
            train_error, test_error = 100 - 100 * row["train_acc"], 100 - 100 * row["test_acc"]
            tqdm.write(
                f"{row['epoch']:5} {row['lr']:9.4g}  {row['train_loss']:10.6f}  {train_error:11.2f}"
                f"  {row['test_loss']:9.4f}  {test_error:10.2f}  {row['si_norm']:8.4f}"
                f"  {row['seconds']:7.2f}"
            )
            self.lines += 1
        sys.stdout.flush()


if __name__ == "__main__":
    main()
