"""Train one network; save checkpoints, a log and the configuration in the run's folder.

    python train.py --dir Experiments/first --dataset Digits --num_channels 4 --epochs 50 \\
        --model ConvNetSI --noninvlr 0 --init_scale 10 --lr_init 1 --wd 0.001 --momentum 0 \\
        --noaug --no_schedule --use_test

The story of a run, in this order: options, folder, data, network, optimiser, loop. The random
numbers of an epoch are a function of seed, trial and epoch alone, so a run that continues from any
of its checkpoints takes the same steps as one that was never interrupted.
"""

from options import Train, tidy, train_options
from utils import Interrupted, UserError, duration, end_quietly, locked, remove_litter, user_errors

if __name__ == "__main__":  # before the imports below, which take seconds
    end_quietly("train.py")
    with user_errors("train.py"):
        train_options()

import math
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import data
import models
import runs
from measuring import Meter
from measuring.rebuild import renew_statistics
from measuring.recorder import Recorder
from measuring.trial import try_training
from measuring.wanted import measure_as
from runs import checkpoints
from runs.resuming import Diverged, is_complete, newest_checkpoint, norm_eps_of
from theory.dynamics import effective_lr
from training.device import describe, memory_format, seed_from, select_device
from training.table import print_row
from training.trainer import Trainer, schedule


def main(argv: list[str] | None = None) -> None:
    with user_errors("train.py"):
        options, notes = train_options(argv)
        try:
            train(options, notes)
        except Diverged as error:
            print(error)
            sys.exit(runs.DIVERGED_STATUS)


def train(options: Train, notes: Sequence[str] = ()) -> runs.Run:
    """Train one run from its options to its last checkpoint, and return it; with `resume` continue
    it, and leave a complete one as it is. Raises UserError for a mistake in the options or in what
    the folder holds, and Diverged if the training loss becomes NaN or infinite."""
    # The folder, and whether there is anything to do
    trial = runs.trial_folder(options.dir, options.trial)
    options = tidy(options)
    options = replace(options, norm_eps=options.norm_eps or norm_eps_of(trial, options))
    branch = options.resume_epoch
    folder = trial if branch is None else runs.branch_folder(trial, branch, options)
    first = branch or 0  # the number of the run's first checkpoint
    last = first + options.epochs
    if is_complete(folder, last, options):
        return runs.read_run(folder)
    branch_point = None if branch is None else runs.checkpoint_path(trial, branch)
    if branch_point and not branch_point.exists():
        raise UserError(f"there is no {branch_point} to branch off")
    if models.own.is_own(options.model):
        models.own.find_function(options.model)  # report a wrong name before loading data

    # Data
    device = select_device(options.gpu, options.deterministic)
    layout = memory_format(device, options.num_channels, options.norm)
    train_images, eval_images = data.load(options, options.use_test)
    steps = math.ceil(len(train_images) / options.batch_size)
    if options.save_freq_int > steps:
        raise UserError(f"--save_freq_int {options.save_freq_int}: an epoch has {steps} steps")
    train_images, eval_images = (part.to(device, layout) for part in (train_images, eval_images))
    test_images = eval_images
    if options.metrics and not options.use_test:
        test_images = data.load(options, use_test=True)[1].to(device, layout)

    # Network
    torch.manual_seed(seed_from(options.seed, options.trial))
    known = [place for place in (folder, trial) if (place / runs.CONFIG).exists()]
    known = known if options.resume or branch_point else []  # runs of the same network
    si_weights = runs.read_config(known[0]).get("si_weights") if known else None
    model = models.build(options, train_images.num_classes, train_images.size, si_weights)
    if models.own.is_own(options.model):
        try_training(model, options, train_images, eval_images, test_images)
    content = checkpoints.load_into(model, branch_point) if branch_point else None

    with locked(folder / runs.LOCK, str(folder)):
        if is_complete(folder, last, options):  # again: it may have been trained meanwhile
            return runs.read_run(folder)
        remove_litter(folder)
        if not options.overwrite:
            runs.check_same_images(folder, options, train_images.checksum())
        if branch_point:
            runs.check_same_images(trial, options, train_images.checksum())
        # Where to start: at the newest checkpoint, at the branch point, or afresh
        resumed, newest = (None, None) if options.overwrite else newest_checkpoint(folder)
        if newest:
            if resumed > last:
                raise UserError(
                    f"{folder} has come to epoch {resumed}: --epochs {options.epochs} would end it "
                    "before"
                )
            checkpoints.load_weights(model, newest, folder)
            content = newest

        # Optimiser
        model.to(device, memory_format=layout)
        fixed_norm = content.get("fixed_norm") if resumed is not None else None
        before = [weight.clone() for weight in models.split_parameters(model)[0] if branch_point]
        trainer = Trainer(model, options, len(train_images), device, fixed_norm)
        if not all(map(torch.allclose, before, trainer.si_weights)):
            renew_statistics(model, train_images, options.batch_size)  # for the norm that is held
        if content:
            trainer.load_moments(content)

        # What is measured
        evaluator = Meter(model, eval_images, replace(measure_as(options), eval_model=True))
        if resumed is None:
            runs.remove_run(folder, metrics=not options.resume)
        runs.write_config(folder, {**asdict(options), **environment(trainer, train_images)})
        recorder = None
        if options.metrics:
            recorder = Recorder(folder, model, train_images, test_images, options)
            if recorder.catch_up() and content:
                checkpoints.load_weights(model, content, folder)
            diverged = runs.diverged_at(folder)
            if diverged is not None:
                recorder.write()
                raise Diverged(diverged, measured=True)

        # Loop
        for note in notes:
            print(note)
        done = first if resumed is None else resumed  # epochs trained so far
        print(f"{folder}: epochs {done} to {last} on {describe(device)}", flush=True)
        Training(folder, options, trainer, train_images, recorder, evaluator).epochs(done)
        if recorder is None:
            print(f"{folder}: trained; test.py, or --resume --metrics, measures it")
    return runs.read_run(folder)


@dataclass
class Training:
    """The loop over the epochs, with what it leaves on disk."""

    folder: Path
    options: Train
    trainer: Trainer
    images: data.ImageSet
    recorder: Recorder | None
    evaluator: Meter
    record_seconds: float = 0.0  # time of the latest metrics of a checkpoint

    def __post_init__(self):
        self.first = self.options.resume_epoch or 0  # the number of the run's first checkpoint
        self.last = self.first + self.options.epochs
        steps = math.ceil(len(self.images) / self.options.batch_size)  # in an epoch
        n = self.options.save_freq_int
        # step -> which part of the epoch it ends
        self.parts = {part * steps // n: part for part in range(1, n)}

    def is_saved(self, epoch: int) -> bool:
        return runs.is_saved(epoch - self.first, self.options.save_freq) or epoch == self.last

    def is_evaluated(self, epoch: int) -> bool:
        return (epoch - self.first) % self.options.eval_freq == 0 or epoch == self.last

    def epochs(self, done: int) -> None:
        """Train on, from the state after `done` epochs to the last."""
        first, last = self.first, self.last
        rows = [row for row in runs.read_log(self.folder) if row["epoch"] <= done]
        if len(rows) < done - first:
            print(f"note: the log lacks {done - first - len(rows)} of the epochs up to {done}")
        runs.write_log(self.folder, rows)
        now, printed = done, 0
        try:
            at_end = done in (first, last)  # of a run that was to go on for longer, its new end
            if at_end and not runs.is_whole(runs.checkpoint_path(self.folder, done)):
                self.record(done)
                self.save(done, row=rows[-1] if rows else None)
            bar = tqdm(range(done, last), initial=done - first, total=last - first, disable=None)
            for epoch in bar:
                row = self.epoch(epoch, (epoch - first) / self.options.epochs)
                diverged = not math.isfinite(row["train_loss"])
                now = epoch + 1
                saved, evaluated = self.is_saved(now) or diverged, self.is_evaluated(now)
                test = self.record(now) if saved else {}
                if not (test and self.options.use_test):  # its test set is the evaluation set
                    test = self.evaluator.measure()["all"] if evaluated else {}
                row.update(test_loss=test.get("loss"), test_acc=test.get("acc"))
                runs.append_log(self.folder, row)  # first: the log may be ahead of the checkpoint
                self.save(now, row=row, latest=not saved)
                if now == done + 2 and now < last:  # the first also loads the kernels
                    left = duration(self.left(now, row["seconds"]))
                    tqdm.write(
                        f"second epoch {row['seconds']:.2f} s: about {left} to train and measure"
                    )
                if evaluated or not sys.stdout.isatty():  # a log has every epoch, as official ones
                    print_row(row, printed)
                    printed += 1
                if diverged:
                    raise Diverged(now, measured=self.recorder is not None)
        except (Interrupted, OSError):
            again = "the same command" + ("" if self.options.resume else " with --resume")
            again += " instead of --overwrite" if self.options.overwrite else ""
            tqdm.write(f"stopped after epoch {now} of {last}; {again} continues in {self.folder}")
            raise
        finally:
            if self.recorder:
                self.recorder.write()

    def left(self, now: int, seconds: float) -> float:
        """About how many seconds the run still takes, with its metrics and evaluations. An epoch of
        training takes `seconds`, a third of it for the forward passes."""
        to_come = range(now + 1, self.last + 1)
        measured = {e for e in to_come if self.recorder and self.is_saved(e)}
        evaluated = {e for e in to_come if self.is_evaluated(e)}
        if self.options.use_test:
            evaluated -= measured  # the metrics include the evaluation
        evaluation = seconds / 3 * len(self.evaluator.images) / len(self.images)
        measuring = len(measured) * self.record_seconds + len(evaluated) * evaluation
        return len(to_come) * seconds + measuring

    def epoch(self, epoch: int, progress: float) -> dict[str, Any]:
        """Train for one epoch: its row of the log, without the results on the test set."""
        began = time.perf_counter()
        options, trainer = self.options, self.trainer
        lr = trainer.base_lr * schedule(options, progress)
        trainer.set_lr(lr)
        seed = seed_from(options.seed, options.trial, epoch)
        models.seed_all(seed)  # for networks that draw random numbers, as dropout
        generator = torch.Generator().manual_seed(seed)
        batches = self.images.batches(
            options.batch_size, generator, shuffle=True, augment=not options.noaug
        )
        for step, (images, labels) in enumerate(batches, 1):
            trainer.step(images, labels)
            if part := self.parts.get(step):
                self.record(epoch, part)
                self.save(epoch, part)
        result = trainer.finish_epoch()
        if trainer.trace:
            runs.write_trace(self.folder, epoch, {**trainer.trace.take(), "lr": lr})
        si_norm = models.norm(trainer.si_weights).item()
        return {
            "epoch": epoch + 1,
            "lr": lr,
            "train_loss": result["loss"],
            "train_acc": result["accuracy"],
            "test_loss": None,
            "test_acc": None,
            "si_norm": si_norm,
            "effective_lr": float(effective_lr(lr, si_norm, options.optimizer)),
            "seconds": time.perf_counter() - began,
        }

    def record(self, epoch: int, part: int = 0) -> dict[str, Any]:
        """With --metrics, measure the network as it is; return its results on the test set."""
        if self.recorder is None:
            return {}
        began = time.perf_counter()
        results = self.recorder.add(self.time(epoch, part))["test-em"]
        self.record_seconds = time.perf_counter() - began
        return results

    def time(self, epoch: int, part: int) -> float:
        return epoch + part / self.options.save_freq_int if part else epoch

    def save(
        self, epoch: int, part: int = 0, row: dict[str, Any] | None = None, latest: bool = False
    ) -> None:
        """Save a checkpoint; with `latest`, to the one file for an epoch that is not kept."""

        def result(kind: str) -> dict[str, float | None]:  # accuracies in per cent, as P2's
            loss, accuracy = (row and row[f"{kind}_{what}"] for what in ("loss", "acc"))
            return {"loss": loss, "accuracy": None if accuracy is None else 100 * accuracy}

        buffers = checkpoints.unsaved_buffers(self.trainer.model)
        checkpoints.save(
            self.folder / runs.LATEST if latest else runs.checkpoint_path(self.folder, epoch, part),
            {
                "epoch": self.time(epoch, part),
                "state_dict": self.trainer.model.state_dict(),
                "optimizer": self.trainer.optimizer_state(),
                "train_res": result("train"),
                "test_res": result("test"),
                "fixed_norm": self.trainer.fixed_norm,
                **({"buffers": buffers} if buffers else {}),
                "config": asdict(self.options),
            },
        )
        if not latest and not part:
            (self.folder / runs.LATEST).unlink(missing_ok=True)
        if self.options.keep is not None and self.recorder is None:
            runs.prune(self.folder, self.options.keep)


def environment(trainer: Trainer, images: data.ImageSet) -> dict[str, Any]:
    """What the configuration records beside the options."""
    return {
        "base_lr": trainer.base_lr,
        "num_classes": images.num_classes,
        "train_images": len(images),
        "checksum": images.checksum(),
        "si_weights": list(models.si_parameters(trainer.model)),
        "si_parameters": sum(p.numel() for p in trainer.si_weights),
        "other_parameters": sum(p.numel() for p in trainer.others),
        "device": describe(trainer.device),
        "commit": runs.code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
