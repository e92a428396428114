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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

import checkpoints
import data
import models
import runs
from device import describe, mix, select_device
from metrics import evaluate
from options import train_options
from utils import UserError, duration, user_errors


def main(argv: list[str] | None = None) -> None:
    with user_errors("train.py"):
        train(train_options(argv))


def train(options: argparse.Namespace) -> None:
    """One run from its options to its last checkpoint. Raises UserError for a user's mistake."""
    # The folder, and where in it to start
    trial = runs.trial_folder(options.dir, options.trial)
    branch = options.resume_epoch
    folder = trial if branch is None else runs.branch_folder(trial, branch, vars(options))
    first = branch or 0  # the number of the run's first checkpoint
    last = first + options.epochs
    start = find_start(folder, options)
    if start is not None and start >= last:
        print(f"{folder} is complete: checkpoint-{start}.pt is its last")
        return
    if start is not None:
        origin = runs.checkpoint_path(folder, start)
    elif branch is not None:
        origin = runs.checkpoint_path(trial, branch)
    else:
        origin = None
    done = first if start is None else start  # epochs behind the current weights

    # Data
    device = select_device(options.gpu)
    train_images, eval_images = data.load(
        options.dataset,
        options.data_path,
        use_test=options.use_test,
        use_data_size=options.use_data_size,
        corrupt_train=options.corrupt_train,
    )
    train_images, eval_images = train_images.to(device), eval_images.to(device)

    # Network and optimiser
    torch.manual_seed(mix(options.seed, options.trial))
    model = models.build(
        options.model,
        train_images.num_classes,
        options.num_channels,
        options.depth,
        options.init_scale,
    )
    content = None
    if origin is not None:
        content = checkpoints.load(origin)
        checkpoints.load_weights(model, content, origin)
    model.to(device)
    si_weights, _ = models.split_parameters(model)
    optimizer = make_optimizer(model, options)
    if content is not None:
        load_optimizer(optimizer, content)
    fixed_norm = None
    if options.fix_si_pnorm:
        fixed_norm = starting_norm(options, si_weights, None if start is None else content)

    steps = math.ceil(len(train_images) / options.batch_size)  # an epoch

    def save(epoch: int, step: int = 0, train_res: Any = None, test_res: Any = None) -> None:
        checkpoints.save(
            runs.checkpoint_path(folder, epoch, step),
            {
                "epoch": epoch + step / steps if step else epoch,
                "state_dict": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "train_res": train_res or {"loss": None, "accuracy": None},
                "test_res": test_res or {"loss": None, "accuracy": None},
                "fixed_norm": fixed_norm,
                "config": vars(options),
            },
        )

    def after_step(epoch: int, step: int) -> None:
        if fixed_norm is not None:
            models.rescale_to_norm(si_weights, fixed_norm)
        if options.save_freq_int and step % options.save_freq_int == 0 and step < steps:
            save(epoch, step)

    # The loop
    rows = [row for row in runs.read_log(folder) if row["epoch"] <= done]
    if start is None:
        remove_old_run(folder)
        rows = []
        if fixed_norm is not None:
            models.rescale_to_norm(si_weights, fixed_norm)
        runs.write_config(folder, {**vars(options), **environment(model, train_images, device)})
        save(done)
    print(f"{folder}: epochs {done} to {last} on {describe(device)}", flush=True)
    table = Table(first_epoch=done)
    for epoch in tqdm(range(done, last), initial=done - first, total=last - first, disable=None):
        began = time.perf_counter()
        lr = options.lr_init * schedule(options, (epoch - first) / options.epochs)
        optimizer.param_groups[0]["lr"] = lr
        generator = torch.Generator().manual_seed(mix(options.seed, options.trial, epoch))
        batches = train_images.batches(
            options.batch_size, generator, shuffle=True, augment=not options.noaug
        )
        if options.fbgd:
            train_res = full_batch_step(model, optimizer, batches, len(train_images))
            after_step(epoch, 0)
        else:
            train_res = sgd_epoch(
                model, optimizer, batches, lambda step, epoch=epoch: after_step(epoch, step)
            )
        seconds = time.perf_counter() - began

        now = epoch + 1
        test_res = None
        if (now - first) % options.eval_freq == 0 or now == last:
            test_res = evaluate(model, eval_images)
        si_norm = models.norm(si_weights).item()
        rows.append(
            {
                "epoch": now,
                "lr": lr,
                "train_loss": train_res["loss"],
                "train_acc": train_res["accuracy"],
                "test_loss": test_res and test_res["loss"],
                "test_acc": test_res and test_res["accuracy"],
                "si_norm": si_norm,
                "effective_lr": lr / si_norm**2,
                "seconds": seconds,
            }
        )
        if runs.is_saved(now - first, options.save_freq) or now == last:
            save(now, 0, train_res, test_res)
        runs.write_log(folder, rows)
        table.show(rows[-1], last)


def find_start(folder: Path, options: argparse.Namespace) -> int | None:
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


def make_optimizer(model: torch.nn.Module, options: argparse.Namespace) -> torch.optim.SGD:
    """SGD with coupled weight decay; a group of its own for weights with another rate.

    The first group follows the schedule. With --noninvlr r >= 0 it holds the scale-invariant
    weights, and the second group holds all others at the constant rate r.
    """
    if options.noninvlr < 0:
        groups = [{"params": list(model.parameters())}]
    else:
        si_weights, others = models.split_parameters(model)
        groups = [{"params": si_weights}, {"params": others, "lr": options.noninvlr}]
    return torch.optim.SGD(
        groups, lr=options.lr_init, momentum=options.momentum, weight_decay=options.wd
    )


def load_optimizer(optimizer: torch.optim.SGD, content: dict[str, Any]) -> None:
    """Take over the momentum of a checkpoint, but the rates and weight decay of this run."""
    own = optimizer.state_dict()
    saved = content.get("optimizer") or {}
    sizes = [len(group["params"]) for group in own["param_groups"]]
    if [len(group["params"]) for group in saved.get("param_groups", [])] != sizes:
        print("note: the checkpoint groups its weights otherwise: momentum starts at zero")
        return
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own["param_groups"]})


def starting_norm(
    options: argparse.Namespace, si_weights: list[torch.Tensor], content: dict[str, Any] | None
) -> float:
    """The norm that --fix_si_pnorm keeps: the one given, that of the run resumed, or today's."""
    if options.fix_si_pnorm_value > 0:
        return options.fix_si_pnorm_value
    return content["fixed_norm"] if content else models.norm(si_weights).item()


def schedule(options: argparse.Namespace, progress: float) -> float:
    """The factor on the learning rate when a fraction 0 <= progress < 1 of training is done."""
    if options.no_schedule:
        return 1.0
    if options.cosan_schedule:
        return 0.5 * (1 + math.cos(math.pi * progress))
    if options.d_schedule:
        return options.d_schedule ** -math.floor(4 * progress)
    if options.c_schedule:
        low, fallen = 1 / options.c_schedule, max(progress - 0.25, 0) / 0.75
    else:
        low, fallen = 0.01, min(max(progress - 0.5, 0) / 0.4, 1)
    return 1 - (1 - low) * fallen


def sgd_epoch(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    after_step: Callable[[int], None],
) -> dict[str, float]:
    """One step a batch. Mean loss and accuracy over the images, each before its own step."""
    model.train()
    sums = 0
    for step, (images, labels) in enumerate(batches, 1):
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        after_step(step)
        sums = sums + batch_sums(loss.detach() * len(labels), logits, labels)
    return means(sums)


def full_batch_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    total: int,
) -> dict[str, float]:
    """One step with the gradient of all `total` images, each batch normalised by itself."""
    model.train()
    optimizer.zero_grad()
    sums = 0
    for images, labels in batches:
        logits = model(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        (loss / total).backward()
        sums = sums + batch_sums(loss.detach(), logits, labels)
    optimizer.step()
    return means(sums)


def batch_sums(loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed loss, right answers and images of a batch: (3,), on the device, nothing awaited."""
    correct = (logits.argmax(1) == labels).sum()
    return torch.stack([loss, correct, torch.full_like(loss, len(labels))]).double()


def means(sums: torch.Tensor) -> dict[str, float]:
    loss, correct, count = sums.tolist()
    return {"loss": loss / count, "accuracy": correct / count}


class Table:
    """One line an evaluated epoch, and after the first epoch how long the rest will take."""

    HEADER = "epoch        lr  train loss  train err %  test loss  test err %         ρ  s/epoch"
    REPEATED = 40  # lines between two headers

    def __init__(self, first_epoch: int):
        self.first_epoch, self.lines = first_epoch, 0

    def show(self, row: dict[str, Any], last: int) -> None:
        if row["epoch"] == self.first_epoch + 1 and last > row["epoch"]:
            left = (last - row["epoch"]) * row["seconds"]
            tqdm.write(f"first epoch {row['seconds']:.2f} s: about {duration(left)} to train")
        if row["test_loss"] is not None:
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
