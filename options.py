"""Every option of train.py and test.py, declared once, with the checks of its values.

The names and defaults are those of the papers' official code, so its command lines work here.
`python options.py` prints the table that README.md holds (a test keeps the two in step).
"""

import argparse
from collections.abc import Callable, Sequence

from command_line import (
    Option,
    Parser,
    chosen_epochs,
    given,
    integer,
    number,
    one_of,
    whole_numbers,
)
from utils import UserError

# Names only: models/ and data.py implement them, and a test compares. Importing those modules here
# would load torch before a mistyped option is reported.
MODEL_NAMES = ("ConvNetSI", "ConvNetSIAf", "ResNet18SI", "ResNet18SIAf")
DATASET_NAMES = ("CIFAR10", "CIFAR100", "SVHN", "Digits", "ImageFolder")
NORM_NAMES = ("batch", "layer", "group", "instance", "weight")
OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("fp32", "tf32", "bf16")
NORM_EPS = 1e-12


def network(text: str) -> str:
    """One of the networks of the papers, or the function that makes one of your own."""
    return text if ":" in text else one_of(MODEL_NAMES)(text)


DATA = (
    Option("--dataset", one_of(DATASET_NAMES), "CIFAR10", ", ".join(DATASET_NAMES)),
    Option("--data_path", str, "./datasets", "folder of the data (CIFAR is downloaded into it)"),
    Option("--batch_size", integer(1), 128, "images in a batch"),
    Option("--use_data_size", integer(1), None, "keep the first N training images (default: all)"),
    Option(
        "--use_test_size", integer(1), None,
        "measure on the first N images of the test (or held-out) set (default: all)",
    ),
    Option(
        "--corrupt_train", number(0, 1), None,
        "replace the labels of this fraction of the training images by random ones",
    ),
    Option(
        "--split_classes", integer(0, 1), None,
        "of ten classes keep half: 0: those numbered 0, 1, 2, 8, 9; 1: 3 to 7 (numbered anew)",
    ),
    Option("--num_workers", integer(0), 4, "accepted, and changes nothing: no workers needed"),
)  # fmt: skip
MODEL = (
    Option(
        "--model",
        network,
        "ConvNetSI",
        ", ".join(MODEL_NAMES)
        + ", or one of your own: path/to/file.py:function, package.module:name",
    ),
    Option("--num_channels", integer(1), 64, "width: channels of the first stage"),
    Option("--depth", integer(1), 3, "blocks after the first (ConvNet only)"),
    Option("--norm", one_of(NORM_NAMES), "batch", "normalisation: " + ", ".join(NORM_NAMES)),
    Option(
        "--norm_eps",
        number(0, open_low=True),
        None,
        "summand to the normalised variance (default: 1e-12; 1e-5 for checkpoints of the official "
        "code; a branch: as its run)",
    ),
)
LOSS = Option(
    "--use_squared_loss",
    None,
    False,
    "(Σ o² - 2 o_y + 1) / C of outputs o, label y, C classes, instead of the cross-entropy (P2)",
)
INIT_SCALE = Option(
    "--init_scale --initscale", number(0, open_low=True, off=-1), -1.0,
    "Frobenius norm given to the last layer's weights at the start (-1: leave them)",
)  # fmt: skip
NONINVLR = Option(
    "--noninvlr --fix_noninvlr", number(0, off=-1), -1.0,
    "learning rate of all weights that are not scale invariant (0: frozen; -1: as the others)",
)  # fmt: skip
METRICS_PRECISION = Option(
    "--metrics_precision", one_of(PRECISIONS), "fp32",
    "of loss, accuracy and gradient norms that are measured; sharpness and curvature: always fp32",
)  # fmt: skip
NOAUG = Option("--noaug --no_aug", None, False, "train without random crops and flips")
MACHINE = (
    Option("--seed", integer(0), 1, "seed; the random numbers of a run depend on seed + trial"),
    Option(
        "--gpu", integer(-1), 0, "number of the GPU (-1: CPU; without any GPU, 0 is the CPU too)"
    ),
)

TRAIN = (
    Option("--dir", str, "./Experiments/run", "folder of the run; its files go to DIR/trial_<t>"),
    Option("--trial", integer(0), 0, "number of the run among equal ones (changes the seed)"),
    *DATA,
    Option("--use_test", None, False, "train on all training images and evaluate on the test set"),
    NOAUG,
    *MODEL,
    INIT_SCALE,
    NONINVLR,
    LOSS,
    Option("--lr_init", number(0), 0.01, "learning rate η"),
    Option("--wd", number(0), 1e-4, "weight decay λ (added to the gradient; adamw: decoupled)"),
    Option("--optimizer", one_of(OPTIMIZERS), "sgd", ", ".join(OPTIMIZERS)),
    Option("--momentum", number(0, 1, open_high=True), 0.9, "momentum of SGD"),
    Option("--epochs", integer(1), 1001, "epochs to train"),
    Option("--fbgd", None, False, "full-batch gradient descent: one step an epoch"),
    Option("--fix_si_pnorm", None, False, "keep the norm of the SI weights fixed by projection"),
    Option(
        "--fix_si_pnorm_value", number(), -1.0, "the norm to keep (<= 0: the one at the start)"
    ),
    Option(
        "--fix_elr", None, False,
        "train on the sphere (P2): SI weights keep their norm ρ₀ and have the rate ELR·ρ₀²",
    ),
    Option(
        "--fix_all_elr", None, False,
        "as --fix_elr, and every filter of the SI weights keeps one common norm (P2)",
    ),
    Option(
        "--elr", number(0, open_low=True), None,
        "effective learning rate ELR of --fix_elr and --fix_all_elr",
    ),
    Option(
        "--same_init", None, False,
        "initialise the network from the official code's fixed seed, the same in every run",
    ),
    Option(
        "--same_last_layer", None, False,
        "initialise the last layer from the official code's fixed seed, the same in every run",
    ),
    Option("--no_schedule --noschedule", None, False, "constant learning rate"),
    Option(
        "--c_schedule", number(0), None,
        "after the first quarter the rate falls linearly to 1/P of lr_init (0: off)",
    ),
    Option(
        "--d_schedule", number(0), None,
        "the rate is divided by P after each quarter of training (0: off)",
    ),
    Option("--cosan_schedule", None, False, "cosine annealing of the rate to 0"),
    Option("--save_freq", integer(1), None, "save every N epochs (default: ever more rarely)"),
    Option(
        "--save_freq_int", integer(0), 0,
        "save N times an epoch: N - 1 times within it, evenly (0: after it alone)",
    ),
    Option("--trace", None, False, "record every step: loss, ρ, ‖g‖ and angle, in trace/"),
    Option("--metrics", None, False, "measure saved epochs while training: writes test.py's files"),
    Option("--keep", integer(1), None, "keep only the newest N checkpoints (default: all)"),
    Option("--keep_epochs", whole_numbers, [], "with --keep: keep these too, as in 0,100,200"),
    Option("--eval_freq", integer(1), 10, "evaluate on the test (or held-out) set every N epochs"),
    Option(
        "--resume_epoch", integer(-1), None,
        "branch off checkpoint E of this trial for --epochs more epochs, into a folder below it "
        "(-1: do not)",
    ),
    Option(
        "--precision", one_of(PRECISIONS), "fp32",
        "of training: fp32; tf32: factors rounded to 10 bits (GPU); bf16: autocast",
    ),
    METRICS_PRECISION,
    Option("--deterministic", None, False, "the same bits in every run on a GPU, a little slower"),
    Option("--compile", None, False, "through torch.compile, measuring too (needs a C++ compiler)"),
    Option("--keep_going", None, False, "go on although the loss has become NaN or infinite"),
    Option("--resume", None, False, "go on from this run's newest checkpoint, if it has one"),
    Option("--overwrite", None, False, "start anew in a folder that already holds this run"),
    *MACHINE,
)  # fmt: skip

TEST = (
    Option("--models_dir", str, None, "folder of the checkpoints, DIR/trial_<t>, or one of them"),
    Option(
        "--epochs", chosen_epochs, None,
        "measure these checkpoints alone, adding to the file: 0,100,200 or every10 (default: all)",
    ),
    Option("--save_path", str, None, "the .npz file (default: a name below models_dir)"),
    Option("--prebn_save_path", str, None, "second .npz, as with --prebn_only, from the same pass"),
    Option("--use_test", None, False, "measure on the test set (default: the training set)"),
    Option("--train_mode", None, False, "normalise with each batch's own statistics"),
    Option("--eval_model", None, False, "loss, acc"),
    Option("--all_pnorm", None, False, "<parameter>_norm and <parameter>_numel of every parameter"),
    Option(
        "--calc_grad_norms --calc_grad_norms_small_memory", None, False,
        "gnorm_m: mean over batches of the gradient's norm",
    ),
    Option("--calc_grad_norms_all", None, False, "gnorm_all: the gradient's norm of every batch"),
    Option(
        "--calc_grad_norms_param_groups", None, False,
        "gnorm_m_param_groups: as gnorm_m, of every filter of every SI weight",
    ),
    Option(
        "--calc_grads", None, False,
        "gm_norm, gs_norm: norms of mean and standard deviation of the batch gradients",
    ),
    Option(
        "--calc_batch_outliers", None, False,
        "outliers_list: wrongly classified images of every batch, by true class",
    ),
    Option(
        "--calc_probs_stats", None, False,
        "p_stats: mean, std, min, max, median of every batch's probabilities, by true class",
    ),
    Option("--calc_cos_init", None, False, "cos_init: cosine of the SI weights with checkpoint 0"),
    Option("--calc_l2_init", None, False, "l2_init: distance of all weights from checkpoint 0"),
    Option("--prebn_only", None, False, "norms, gradients and curvature of the SI weights only"),
    Option("--fisher_trace", None, False, "fisher_trace: trace / number of parameters"),
    Option("--fisher_evals", None, False, "fisher_evals: 10 leading eigenvalues"),
    Option("--hess_trace", None, False, "hess_trace: trace / number of parameters"),
    Option("--hess_evals", None, False, "hess_evals: 10 leading eigenvalues"),
    Option(
        "--sharpness", None, False,
        "sharpness: leading eigenvalue of the Hessian on the unit sphere of the SI weights",
    ),
    Option("--update", None, False, "add to the .npz: compute only what it lacks"),
    Option(
        "--eval_on_train_subsets", None, False,
        "loss, acc and traces also of the images with true and with corrupted labels: ..._normal, "
        "..._corrupt",
    ),
    Option(
        "--eval_on_random_subset", integer(1), None,
        "measure on N random images of the set, fixed by --seed (N left out: 5000, or all of a "
        "smaller set)", 0,
    ),
    Option(
        "--save_freq_int", integer(0), 0,
        "without config.json: checkpoint-<e>-<i>.pt is of epoch e + i/N (0: N from the files)",
    ),
    Option("--use_aug", None, False, "measure on randomly cropped and flipped images"),
    METRICS_PRECISION,
    *DATA,
    NOAUG,
    *MODEL,
    LOSS,
    INIT_SCALE,
    NONINVLR,
    *MACHINE,
)  # fmt: skip

# test.py takes these from the run's own config.json where the command line does not give them.
FROM_RUN = tuple(o.key for o in (*DATA, *MODEL, LOSS))
# test.py accepts these because official command lines give them; it says that they change nothing.
NO_EFFECT_IN_TEST = {
    "num_workers": "the images stay on the device",
    "noaug": "images are augmented with --use_aug alone",
    "init_scale": "the checkpoints hold the weights",
    "noninvlr": "nothing is trained",
}


def train_options(
    argv: Sequence[str] | None = None, say: Callable[[str], object] = print
) -> argparse.Namespace:
    """The options of train.py. Exits with status 2 and one line where they are wrong.

    What official command lines give without an effect is set aside; `say` gets a line about it.
    """
    parser = Parser(TRAIN, prog="train.py", description="Train one network.")
    args = parser.parse_args(argv)
    words = given(argv, TRAIN)
    if args.lr_init == 0 and not (args.fix_elr or args.fix_all_elr):
        parser.error("--lr_init: 0 is not a finite number > 0, and --fix_elr alone does without")
    idle = idle_options(args, words)
    defaults = {option.key: option.default for option in TRAIN}
    check_train_options(args, words)
    if idle:
        what = "; ".join(f"--{key} ({reason})" for key, reason in idle.items())
        say(f"note: changes nothing: {what}")
    for key in idle:
        if key != "wd":  # which acts on the weights that are not SI
            setattr(args, key, defaults[key])
    if args.norm_eps is None and args.resume_epoch is None:
        args.norm_eps = NORM_EPS
    return args


def idle_options(args: argparse.Namespace, words: set[str]) -> dict[str, str]:
    """What official command lines give though it has no effect: key -> why it has none."""
    on_sphere = args.fix_elr or args.fix_all_elr
    both = bool(args.c_schedule and args.d_schedule)
    rules = (
        ("num_workers", "num_workers" in words, "the images stay on the device"),
        ("elr", args.elr is not None and not on_sphere, "it belongs to --fix_elr"),
        ("lr_init", "lr_init" in words and on_sphere, "the rate is that of --elr"),
        ("wd", args.wd and "wd" in words and on_sphere, "on the SI weights, whose norm is kept"),
        ("no_schedule", args.no_schedule and args.cosan_schedule, "--cosan_schedule is the one"),
        ("c_schedule", args.c_schedule == 0, "0 is off"),
        ("d_schedule", args.d_schedule == 0, "0 is off"),
        ("d_schedule", both, "--c_schedule is the one"),
        (
            "fix_si_pnorm_value", args.fix_si_pnorm_value > 0 and not args.fix_si_pnorm,
            "it belongs to --fix_si_pnorm",
        ),
        (
            "fix_si_pnorm", args.fix_si_pnorm and args.fix_si_pnorm_value <= 0 and on_sphere,
            "the norm is kept already",
        ),
        ("resume_epoch", args.resume_epoch == -1, "no branch"),
    )  # fmt: skip
    return {key: reason for key, applies, reason in rules if applies}


def check_train_options(args: argparse.Namespace, words: set[str]) -> None:
    """Raises UserError where options contradict each other or lack one another."""
    on_sphere = args.fix_elr or args.fix_all_elr
    constant = args.no_schedule and not args.cosan_schedule
    schedules = {"no_schedule": constant, "c_schedule": args.c_schedule}
    schedules |= {"d_schedule": args.d_schedule and not args.c_schedule}
    schedules |= {"cosan_schedule": args.cosan_schedule}
    named = [name for name, value in schedules.items() if value]
    if len(named) > 1:
        raise UserError(f"--{named[0]} and --{named[1]} contradict each other: give one")
    if args.fix_elr and args.fix_all_elr:
        raise UserError("--fix_elr and --fix_all_elr contradict each other: give one")
    if on_sphere and args.elr is None:
        raise UserError("--fix_elr and --elr go together: --fix_elr needs a value of --elr")
    if on_sphere and args.fix_si_pnorm and args.fix_si_pnorm_value > 0:
        raise UserError("--fix_elr keeps the initial norm: leave out --fix_si_pnorm_value")
    if args.optimizer != "sgd":
        if "momentum" in words:
            raise UserError("--momentum belongs to --optimizer sgd: Adam has its own moments")
        if on_sphere:
            raise UserError("--fix_elr needs --optimizer sgd: Adam's steps have another length")
    if args.keep_epochs and args.keep is None:
        raise UserError("--keep_epochs needs --keep: without it every checkpoint is kept")
    if args.resume and args.overwrite:
        raise UserError("--resume and --overwrite contradict each other: give one")
    if args.fbgd and args.save_freq_int > 1:
        raise UserError("--save_freq_int has nothing to save with --fbgd: one step an epoch")


def without_effect(words: set[str]) -> list[str]:
    """A note for each option that a command line of test.py gives and that changes nothing."""
    found = [(key, reason) for key, reason in NO_EFFECT_IN_TEST.items() if key in words]
    return [f"note: --{key} changes nothing here: {reason}" for key, reason in found]


def test_options(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, set[str]]:
    """The options of test.py, and the keys of those that the command line itself gives."""
    parser = Parser(TEST, prog="test.py", description="Measure the checkpoints of one run.")
    args = parser.parse_args(argv)
    if args.models_dir is None:
        raise UserError("--models_dir is missing: the folder that holds checkpoint-<epoch>.pt")
    if args.eval_on_train_subsets and args.use_test:
        print("note: --eval_on_train_subsets changes nothing with --use_test: true labels alone")
        args.eval_on_train_subsets = False
    if args.prebn_only and args.prebn_save_path:
        raise UserError("--prebn_only and --prebn_save_path contradict each other: give one")
    return args, given(argv, TEST)


def markdown_table(options: Sequence[Option]) -> str:
    """The options as the table that README.md holds."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for option in options:
        names = option.names.split()
        shown = f"`{names[0]}`" + "".join(f" (`{name}`)" for name in names[1:])
        default = "off" if option.default is False else option.default
        shown_default = "" if default in (None, []) else f"`{default}`"
        lines.append(f"| {shown} | {shown_default} | {option.help} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"### train.py\n\n{markdown_table(TRAIN)}\n\n### test.py\n\n{markdown_table(TEST)}")
