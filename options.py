"""Every option of train.py and test.py: frozen dataclasses, and the command line made from them.

A field is an option: its name, type, default, meaning and the values that it takes. The names and
defaults are those of the papers' official code, so its command lines work here. `Train` and
`Measure` go unchanged to the network, the trainer, the meter and the run's config.json.
"""

import contextlib
import io
import itertools
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass, replace
from typing import Annotated, Any, TypeVar

import tyro
from tyro.conf import arg

from utils import UserError, nearest

# models/ and data.py implement these, and a test compares the names. Importing those modules here
# would load torch before a mistyped option is reported.
MODEL_NAMES = ("ConvNetSI", "ConvNetSIAf", "ResNet18SI", "ResNet18SIAf")
DATASET_NAMES = ("CIFAR10", "CIFAR100", "SVHN", "Digits", "ImageFolder")
NORM_NAMES = ("batch", "layer", "group", "instance", "weight")
OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("fp32", "tf32", "bf16")
NORM_EPS = 1e-12

Check = Callable[[Any], None]  # raises ValueError that says what would be right
T = TypeVar("T")


def option(default: Any, help: str, check: Check | None = None) -> Any:
    return field(default=default, metadata={"help": help, "check": check})


def number(*, off: float | None = None, whole: bool = False, **bounds: float) -> Check:
    """A finite (or whole) number within bounds, which are named as in `operator`; or `off`."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    expected = f"a {'whole' if whole else 'finite'} number "
    expected += " and ".join(f"{signs[name]} {bound:g}" for name, bound in bounds.items())
    expected += "" if off is None else f", or {off:g}"

    def check(value: float) -> None:
        kinds = int if whole else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if right:  # an integer has to fit into an array; math.isfinite(10**400) fails
            right = abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)
        inside = right and all(getattr(operator, n)(value, bound) for n, bound in bounds.items())
        if not inside and not (right and value == off):
            raise ValueError(f"{value!r} is not {expected.strip()}")

    return check


def integer(low: int) -> Check:
    """A whole number from `low` on."""
    return number(ge=low, whole=True)


def one_of(known: Sequence[str]) -> Check:
    """One of the known names; the error suggests the nearest one."""

    def check(value: str) -> None:
        if value not in known:
            hint = nearest(str(value), known)
            raise ValueError(f"unknown name {value!r}{hint}; known: {', '.join(known)}")

    return check


def network(value: str) -> None:
    """A network of the papers, or the function that makes one of your own."""
    if ":" not in value:
        one_of(MODEL_NAMES)(value)


def not_empty(text: str) -> None:
    if not text:
        raise ValueError("it is empty")


def chosen_epochs(text: str) -> Sequence[int]:
    """Epochs separated by commas, "0,100,200", or every n-th one from 0 on, "every10"."""
    parts = text.removeprefix("every").lstrip(" _").split(",")
    try:
        numbers = [int(part) for part in parts]
        if text.startswith("every"):
            (n,) = numbers
            if n < 1:
                raise ValueError
            return range(0, sys.maxsize, n)
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise ValueError(f"{text!r} is not epochs: 0,100,200 or every10")
    return numbers


@dataclass(frozen=True)
class Options:
    """Base of all options: every value is checked as its field declares. Raises UserError, which
    says what would be right."""

    def __post_init__(self):
        check_values(type(self), vars(self))


def check_values(kind: type[Options], values: Mapping[str, Any]) -> None:
    """Raise UserError if the value of one of these options is not as its field declares."""
    for each in fields(kind):
        value, check = values[each.name], each.metadata["check"]
        if isinstance(each.default, bool) and not isinstance(value, bool):
            raise UserError(f"--{each.name}: {value!r} is not True or False")
        if check is None or (value is None and each.default is None):
            continue
        try:
            check(value)
        except ValueError as error:
            raise UserError(f"--{each.name}: {error}") from None


@dataclass(frozen=True)
class Data(Options):
    """Images, labels and the loss."""

    dataset: str = option("CIFAR10", ", ".join(DATASET_NAMES), one_of(DATASET_NAMES))
    batch_size: int = option(128, "images in a batch", integer(1))
    use_data_size: int | None = option(
        None, "keep the first N training images (None: all)", integer(1)
    )
    use_test_size: int | None = option(
        None,
        "measure on the first N images of the test (or held-out) set (None: all)",
        integer(1),
    )
    corrupt_train: float | None = option(
        None,
        "replace the labels of this fraction of the training images by random ones",
        number(ge=0, le=1),
    )
    split_classes: int | None = option(
        None,
        "keep five of ten classes: 0 keeps 0, 1, 2, 8, 9 and 1 keeps 3 to 7 (renumbered)",
        number(ge=0, le=1, whole=True),
    )
    noaug: Annotated[bool, arg(aliases=("--no_aug",))] = option(
        False, "train without random crops and flips"
    )
    use_squared_loss: bool = option(
        False, "loss (Σ o² - 2 o_y + 1) / C of outputs o, label y, C classes, instead of the "
        "cross-entropy (P2)",
    )  # fmt: skip


@dataclass(frozen=True)
class Model(Options):
    """The network and its initialisation."""

    model: str = option(
        "ConvNetSI",
        ", ".join(MODEL_NAMES) + ", or your own: path/to/file.py:function, package.module:name",
        network,
    )
    num_channels: int = option(64, "width: channels of the first stage", integer(1))
    depth: int = option(3, "blocks after the first (ConvNet only)", integer(1))
    norm: str = option("batch", "normalisation: " + ", ".join(NORM_NAMES), one_of(NORM_NAMES))
    norm_eps: float | None = option(
        None, "added to the variance in the normalisation (None: 1e-12; for checkpoints of the "
        "official code 1e-5; a branch: that of its run)", number(gt=0),
    )  # fmt: skip
    init_scale: Annotated[float, arg(aliases=("--initscale",))] = option(
        -1.0,
        "initial Frobenius norm of the last layer's weights (-1: leave them)",
        number(gt=0, off=-1),
    )
    noninvlr: Annotated[float, arg(aliases=("--fix_noninvlr",))] = option(
        -1.0,
        "learning rate of the weights that are not scale invariant (SI) (0: frozen; -1: as the "
        "others)",
        number(ge=0, off=-1),
    )
    same_init: bool = option(
        False, "initialise the network from the official code's fixed seed, the same in every run"
    )
    same_last_layer: bool = option(
        False,
        "initialise the last layer from the official code's fixed seed, the same in every run",
    )


@dataclass(frozen=True)
class Optimisation(Options):
    """What is trained, and how."""

    lr_init: float = option(0.01, "learning rate η", number(ge=0))
    wd: float = option(
        1e-4, "weight decay λ (added to the gradient; adamw: decoupled)", number(ge=0)
    )
    optimizer: str = option("sgd", ", ".join(OPTIMIZERS), one_of(OPTIMIZERS))
    momentum: float = option(0.9, "momentum of SGD", number(ge=0, lt=1))
    epochs: int = option(1001, "epochs to train", number(ge=1, le=10**6, whole=True))
    no_schedule: Annotated[bool, arg(aliases=("--noschedule",))] = option(
        False, "constant learning rate"
    )
    c_schedule: float | None = option(
        None,
        "after the first quarter the rate falls linearly to 1/P of lr_init (0: off)",
        number(ge=0),
    )
    d_schedule: float | None = option(
        None, "the rate is divided by P after each quarter of training (0: off)", number(ge=0)
    )
    cosan_schedule: bool = option(False, "cosine annealing of the rate to 0")
    fbgd: bool = option(False, "full-batch gradient descent: one step an epoch")
    fix_si_pnorm: bool = option(False, "keep the norm of the SI weights fixed by projection")
    fix_si_pnorm_value: float = option(-1.0, "the norm to keep (<= 0: the initial one)", number())
    fix_elr: bool = option(
        False, "train on the sphere (P2): SI weights keep their norm ρ₀ and have the rate ELR·ρ₀²"
    )
    fix_all_elr: bool = option(
        False, "as --fix_elr, and every filter of the SI weights keeps one common norm (P2)"
    )
    elr: float | None = option(
        None, "effective learning rate ELR of --fix_elr and --fix_all_elr", number(gt=0)
    )
    use_test: bool = option(
        False, "train on all training images and evaluate on the test set (otherwise hold out the "
        "last 5,000, or a tenth, and evaluate on them)",
    )  # fmt: skip
    trial: int = option(0, "number of the run among equal ones (changes the seed)", integer(0))


@dataclass(frozen=True)
class Numbers(Options):
    """Random numbers and arithmetic."""

    seed: int = option(1, "seed; the random numbers of a run depend on seed + trial", integer(0))
    precision: str = option(
        "fp32", "of training and of its metrics: fp32; tf32: factors rounded to 10 bits (GPU); "
        "bf16: autocast. Curvature: always fp32", one_of(PRECISIONS),
    )  # fmt: skip


@dataclass(frozen=True)
class Saving(Options):
    """Where the run is, and what it saves."""

    dir: str = option(
        "./Experiments/run", "folder of the run; its files go to DIR/trial_<t>", not_empty
    )
    save_freq: int | None = option(None, "save every N epochs (None: ever more rarely)", integer(1))
    keep: int | None = option(None, "keep only the newest N checkpoints (None: all)", integer(1))
    eval_freq: int = option(10, "evaluate on the test (or held-out) set every N epochs", integer(1))
    metrics: bool = option(False, "measure saved epochs while training: writes test.py's files")
    trace: bool = option(False, "record every step: loss, ρ, ‖g‖ and angle, in trace/")
    resume: bool = option(False, "go on from this run's newest checkpoint, if it has one")
    overwrite: bool = option(False, "start anew in a folder that already holds this run")
    resume_epoch: int | None = option(
        None, "branch off checkpoint E of this trial for --epochs more epochs, into a folder below "
        "it (-1: do not)", integer(-1),
    )  # fmt: skip


@dataclass(frozen=True)
class Machine(Options):
    """Files, and the machine."""

    data_path: str = option(
        "./datasets", "folder of the data (CIFAR is downloaded into it)", not_empty
    )
    save_freq_int: int = option(
        0, "save N times an epoch: N - 1 times within it, evenly (0: after it alone); in test.py, "
        "without config.json: checkpoint-<e>-<i>.pt is of epoch e + i/N (0: N from the files)",
        integer(0),
    )  # fmt: skip
    gpu: int = option(
        0, "number of the GPU (-1: CPU; without any GPU, 0 is the CPU too)", integer(-1)
    )
    deterministic: bool = option(False, "the same bits in every run on a GPU, a little slower")
    compile: bool = option(False, "through torch.compile (needs a C++ compiler)")
    num_workers: int = option(4, "accepted, and changes nothing: no workers needed", integer(0))
    su_init: bool = option(False, "accepted, and changes nothing: the official code never reads it")


@dataclass(frozen=True)
class Train(Machine, Saving, Numbers, Optimisation, Model, Data):
    """The options of train.py, from the last group to the first. Raises UserError if a value is
    wrong, or options contradict each other."""

    def __post_init__(self):
        super().__post_init__()
        idle = idle_options(self)
        for exclusive in (
            ("no_schedule", "c_schedule", "d_schedule", "cosan_schedule"),
            ("fix_elr", "fix_all_elr"),
            ("resume", "overwrite"),
        ):
            active = [name for name in exclusive if getattr(self, name) and name not in idle]
            if len(active) > 1:
                raise UserError(f"--{active[0]} and --{active[1]} contradict each other: give one")
        if self.lr_init == 0 and not self.on_sphere:
            raise UserError("--lr_init: 0 is not a finite number > 0 (--fix_elr does without one)")
        if self.on_sphere and self.elr is None:
            raise UserError("--fix_elr and --elr go together: --fix_elr needs a value of --elr")
        if self.on_sphere and self.fix_si_pnorm and self.fix_si_pnorm_value > 0:
            raise UserError("--fix_elr keeps the initial norm: leave out --fix_si_pnorm_value")
        if self.on_sphere and self.optimizer != "sgd":
            raise UserError("--fix_elr needs --optimizer sgd: Adam's steps have another length")
        if self.fbgd and self.save_freq_int > 1:
            raise UserError("--save_freq_int has nothing to save with --fbgd: one step an epoch")

    @property
    def on_sphere(self) -> bool:
        """Whether the norm of the SI weights and their effective learning rate are fixed (P2)."""
        return self.fix_elr or self.fix_all_elr


@dataclass(frozen=True)
class Metrics(Options):
    """What to measure of each checkpoint: names of the arrays in the .npz file."""

    eval_model: bool = option(False, "loss, acc")
    eval_on_train_subsets: bool = option(
        False, "loss, acc and traces also of the images with true and with corrupted labels: "
        "..._normal, ..._corrupt",
    )  # fmt: skip
    all_pnorm: bool = option(False, "<parameter>_norm and <parameter>_numel of every parameter")
    calc_grad_norms: Annotated[bool, arg(aliases=("--calc_grad_norms_small_memory",))] = option(
        False, "gnorm_m: mean over batches of the gradient's norm"
    )
    calc_grad_norms_all: bool = option(False, "gnorm_all: the gradient's norm of every batch")
    calc_grad_norms_param_groups: bool = option(
        False, "gnorm_m_param_groups: as gnorm_m, of every filter of every SI weight"
    )
    calc_grads: bool = option(
        False, "gm_norm, gs_norm: norms of mean and standard deviation of the batch gradients"
    )
    calc_batch_outliers: bool = option(
        False, "outliers_list: wrongly classified images of every batch, by true class"
    )
    calc_probs_stats: bool = option(
        False, "p_stats: mean, std, min, max, median of every batch's probabilities, by true class"
    )
    calc_cos_init: bool = option(False, "cos_init: cosine of the SI weights with checkpoint 0")
    calc_l2_init: bool = option(False, "l2_init: distance of all weights from checkpoint 0")
    fisher_trace: bool = option(False, "fisher_trace: trace / number of parameters")
    fisher_evals: bool = option(False, "fisher_evals: 10 leading eigenvalues")
    hess_trace: bool = option(False, "hess_trace: trace / number of parameters")
    hess_evals: bool = option(False, "hess_evals: 10 leading eigenvalues")
    sharpness: bool = option(
        False, "sharpness: leading eigenvalue of the Hessian on the unit sphere of the SI weights"
    )


@dataclass(frozen=True)
class Measuring(Options):
    """Which checkpoints and images, and where the results go."""

    models_dir: str | None = option(
        None, "folder of the checkpoints, DIR/trial_<t>, or one of them", not_empty
    )
    epochs: str | None = option(
        None, "measure only these checkpoints, adding to the file: 0,100,200 or every10 (None: "
        "all)", chosen_epochs,
    )  # fmt: skip
    save_path: str | None = option(None, "the .npz file (None: a name below models_dir)", not_empty)
    prebn_save_path: str | None = option(
        None, "second .npz, as with --prebn_only, from the same pass", not_empty
    )
    update: bool = option(False, "add to the .npz: compute only what it lacks")
    use_test: bool = option(False, "measure on the test set (otherwise the training set)")
    train_mode: bool = option(False, "normalise with each batch's own statistics")
    prebn_only: bool = option(False, "norms, gradients and curvature of the SI weights only")
    use_aug: bool = option(False, "measure on randomly cropped and flipped images")
    eval_on_random_subset: int | None = option(
        None, "measure on N random images of the set, fixed by --seed (N left out, or 0: 5000, or "
        "all of a smaller set)", integer(0),
    )  # fmt: skip


@dataclass(frozen=True)
class Measure(Machine, Numbers, Model, Data, Measuring, Metrics):
    """The options of test.py. Data, model, data_path and precision that a command line does not
    give are the run's own."""

    def __post_init__(self):
        super().__post_init__()
        if self.prebn_only and self.prebn_save_path:
            raise UserError("--prebn_only and --prebn_save_path contradict each other: give one")


def groups_of(kind: type[Options]) -> list[type[Options]]:
    """The groups that a dataclass of options inherits, in the order of its fields; or none."""
    return [base for base in reversed(kind.__bases__) if base is not Options]


def names(*kinds: type[Options]) -> list[str]:
    return [each.name for kind in kinds for each in fields(kind)]


# What decides which run it is; all else says where and how it is computed and saved.
DECIDING = names(Data, Model, Optimisation, Numbers)
# What test.py takes from the run's config.json where the command line does not give it.
FROM_RUN = (*names(Data, Model), "data_path", "precision")
# What test.py accepts because official command lines give it, though it changes nothing.
NO_EFFECT_IN_TEST = {
    "num_workers": "the images stay on the device",
    "su_init": "the official code never reads it",
    "noaug": "images are augmented with --use_aug alone",
    "noninvlr": "nothing is trained",
    **dict.fromkeys(("init_scale", "same_init", "same_last_layer"), "checkpoints hold the weights"),
}


def parse(
    kind: type[T], argv: Sequence[str] | None, prog: str, description: str
) -> tuple[T, set[str]]:
    """The options of a command line (None: `sys.argv`), and the names of those that are given.

    `kind` is a dataclass of options, or of groups of them, which --help then shows one by one,
    below the first line of `description`. Raises UserError if an option is unknown, lacks its
    value, or has a wrong one, and SystemExit with status 0 after --help.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    groups = groups_of(kind)
    by_group = [(group.__name__.lower(), group, field(default_factory=group)) for group in groups]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parts, unknown = tyro.cli(
                make_dataclass(kind.__name__, by_group) if groups else kind,
                args=argv,
                prog=prog,
                description=description.split("\n")[0],
                use_underscores=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff,
                        tyro.conf.DisallowNone),
                return_unknown_args=True,
            )  # fmt: skip
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(message_in(errors.getvalue())) from None
    every = fields(kind)
    named = [e for e in every if tyro.conf.Positional not in getattr(e.type, "__metadata__", ())]
    if unknown and named != [*every] and not any(word.startswith("-") for word in unknown):
        # Words after an option, which tyro takes for no more of those before it
        first = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
        others = [word for word in argv[len(first) :] if word not in unknown]
        return parse(kind, [*first, *unknown, *others], prog, description)
    if unknown:
        on_off = [name for each in named if each.default is False for name in spellings(each)]
        for name, sign, value in (word.partition("=") for word in argv):
            if sign and value == unknown[0] and name[2:] in on_off:
                raise UserError(f"{name} takes no value, and {value!r} is given")
        known = [f"--{name}" for each in named for name in spellings(each)]
        hint = nearest(unknown[0].split("=")[0], known)
        shown = unknown[0] if unknown[0].isprintable() else repr(unknown[0])
        raise UserError(f"unknown option {shown}{hint}; {prog} --help lists the options")
    if groups:
        parts = kind(**{k: v for part in vars(parts).values() for k, v in vars(part).items()})
    words = {word.split("=")[0].lstrip("-").replace("-", "_") for word in argv if word[:2] == "--"}
    return parts, {each.name for each in fields(kind) if words & {*spellings(each)}}


def message_in(box: str) -> str:
    """The message of the box that tyro prints for a mistake, on one line."""
    rows = (line.strip("│ ") for line in box.splitlines()[1:])

    def is_text(row: str) -> bool:
        return bool(row.strip("─╰╯-"))  # where the locale has no such letters the box is of -

    message = itertools.takewhile(is_text, itertools.dropwhile(lambda row: not is_text(row), rows))
    return " ".join(message).removeprefix("Error parsing ")


def spellings(each: Field) -> list[str]:
    """The name of an option and its aliases, without the dashes."""
    extras = getattr(each.type, "__metadata__", ())
    return [each.name, *(alias[2:] for extra in extras for alias in getattr(extra, "aliases", ()))]


def words(options: Options) -> list[str]:
    """The command line that gives these options: those that differ from the defaults."""
    line = []
    for each in fields(options):
        value = getattr(options, each.name)
        if value != each.default:
            line += [f"--{each.name}"] if value is True else [f"--{each.name}", str(value)]
    return line


def train_options(argv: Sequence[str] | None = None) -> tuple[Train, list[str]]:
    """The options of train.py, and a note if some of those given do nothing. Raises as `parse`."""
    options, given = parse(Train, argv, "train.py", "Train one network.")
    if options.optimizer != "sgd" and "momentum" in given:
        raise UserError("--momentum belongs to --optimizer sgd: Adam has its own moments")
    idle = {name: reason for name, reason in idle_options(options).items() if name in given}
    what = "; ".join(f"--{name} ({reason})" for name, reason in idle.items())
    return tidy(options), [f"note: changes nothing: {what}"] if idle else []


def idle_options(options: Train) -> dict[str, str]:
    """The options that have no effect beside the others: name -> why."""
    o, both = options, bool(options.c_schedule and options.d_schedule)
    rules = (
        ("num_workers", True, "the images stay on the device"),
        ("su_init", True, "the official code never reads it"),
        ("elr", not o.on_sphere, "it belongs to --fix_elr"),
        ("lr_init", o.on_sphere, "the rate is that of --elr"),
        ("wd", o.on_sphere and o.wd, "on the SI weights, whose norm is kept"),
        ("momentum", o.optimizer != "sgd", "it belongs to --optimizer sgd"),
        ("no_schedule", o.cosan_schedule, "--cosan_schedule is the one"),
        ("c_schedule", o.c_schedule == 0, "0 is off"),
        ("d_schedule", o.d_schedule == 0, "0 is off"),
        ("d_schedule", both, "--c_schedule is the one"),
        ("fix_si_pnorm_value", not o.fix_si_pnorm, "it belongs to --fix_si_pnorm"),
        ("fix_si_pnorm", o.on_sphere, "the norm is kept already"),
        ("resume_epoch", o.resume_epoch == -1, "no branch"),
        ("corrupt_train", o.corrupt_train == 0, "0 is off"),
    )
    return {name: reason for name, applies, reason in rules if applies}


def tidy(options: Train) -> Train:
    """The same with the options that have no effect at their defaults."""
    defaults = {each.name: each.default for each in fields(options)}
    idle = idle_options(options).keys() - {"wd"}  # which acts on the weights that are not SI
    return replace(options, **{name: defaults[name] for name in idle})


def measure_options(argv: Sequence[str] | None = None) -> tuple[Measure, set[str]]:
    """The options of test.py, and the names of those that are given. Raises as `parse`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    subset = "--eval_on_random_subset"  # official lines give it without a number
    for i, (word, following) in enumerate(zip(argv, [*argv, "--"][1:], strict=True)):
        if word == subset and following.startswith("--"):
            argv[i] = f"{subset}=0"
    options, given = parse(Measure, argv, "test.py", "Measure the checkpoints of one run.")
    if options.models_dir is None:
        raise UserError("--models_dir is missing: the folder that holds checkpoint-<epoch>.pt")
    return options, given
