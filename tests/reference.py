"""Training and measuring once more, plainly: shares no line with the project, torch alone.

What train.py and test.py leave on disk is held against this: images as floats, networks as
functions of a state dict, the loop, the optimisers and the projection written out.
"""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F


def seed_of(*numbers):
    """The documented seed of the network (seed, trial) and of an epoch (seed, trial, epoch)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


# --- data ---


def read_folder(folder):
    """Pixels from 0 to 255, (N, 3, 32, 32), and labels, in the fixed mixture of ImageFolder."""
    files = sorted(folder.glob("*/*.png"))
    classes = sorted({file.parent.name for file in files})
    files = [files[i] for i in np.random.RandomState(0).permutation(len(files))]
    pixels = [torch.tensor(np.array(Image.open(file))).permute(2, 0, 1) for file in files]
    labels = [classes.index(file.parent.name) for file in files]
    return torch.stack(pixels).float(), torch.tensor(labels)


def split(folder, use_test=True, use_data_size=None, corrupt_train=0.0):
    """((training pixels, labels, which are corrupted), (evaluation pixels, labels))."""
    (x, y), test = (read_folder(folder / part) for part in ("train", "test"))
    if not use_test:  # the last tenth is held out
        cut = len(y) - len(y) // 10
        (x, y), test = (x[:cut], y[:cut]), (x[cut:], y[cut:])
    x, y = x[:use_data_size], y[:use_data_size]
    if not corrupt_train:
        return (x, y, torch.zeros(len(y), dtype=torch.bool)), test
    random, classes = np.random.RandomState(228), int(y.max()) + 1
    corrupted = torch.tensor(random.rand(len(y)) <= corrupt_train)
    y[corrupted] = torch.tensor(random.choice(classes, int(corrupted.sum())))
    return (x, y, corrupted), test


def normalised(pixels):
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    return (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def augmented(pixels, top, left, flip):
    """Each image padded with black by 4, cropped at (top, left), mirrored where flip is 1."""
    padded = F.pad(pixels, (4, 4, 4, 4))
    crops = [p[:, t : t + 32, s : s + 32] for p, t, s in zip(padded, top, left, strict=True)]
    return torch.stack([c.flip(2) if f else c for c, f in zip(crops, flip, strict=True)])


def epoch_of(pixels, labels, seed, augment):
    """An epoch's images and labels in their order, from the epoch's documented random numbers."""
    generator, n = torch.Generator().manual_seed(seed), len(labels)
    order = torch.randperm(n, generator=generator)
    x, y = pixels[order], labels[order]
    if augment:
        top, left = torch.randint(9, (2, n), generator=generator)
        x = augmented(x, top, left, torch.randint(2, (n,), generator=generator))
    return normalised(x), y


# --- networks, as functions of a state dict ---


class Network:
    """Logits of a ConvNet or a ResNet-18 whose weights and statistics are in `state`.

    In train mode batch norm's running statistics in `state` are moved by a tenth.
    """

    def __init__(self, state, train, norm="batch", eps=1e-12, groups=4):
        self.state, self.train, self.kind, self.eps, self.groups = state, train, norm, eps, groups

    def conv(self, name, x, stride=1):
        w = self.state.get(f"{name}.weight")
        if w is None:  # weight normalisation: filters of norm sqrt(2)
            v = self.state[f"{name}.parametrizations.weight.original"]
            w = math.sqrt(2) * v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)

    def norm(self, name, x):
        state, channels = self.state, x.shape[1]
        if self.kind == "batch":
            mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
            if self.train:
                n = x.numel() / channels
                now, square = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
                state[f"{name}.running_mean"] = 0.9 * mean + 0.1 * now.detach()
                state[f"{name}.running_var"] = 0.9 * var + 0.1 * square.detach() * n / (n - 1)
                state[f"{name}.num_batches_tracked"] = state[f"{name}.num_batches_tracked"] + 1
                mean, var = now, square
            x = (x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + self.eps).sqrt()
        elif self.kind != "weight":
            size = {"layer": channels, "instance": 1, "group": math.gcd(channels, self.groups)}
            parts = x.reshape(len(x), channels // size[self.kind], -1)
            mean, var = parts.mean(2, keepdim=True), parts.var(2, correction=0, keepdim=True)
            x = ((parts - mean) / (var + self.eps).sqrt()).view(x.shape)
        if f"{name}.weight" in state:
            x = x * state[f"{name}.weight"].view(-1, 1, 1) + state[f"{name}.bias"].view(-1, 1, 1)
        return x

    def __call__(self, x):
        return self.resnet(x) if "linear.weight" in self.state else self.convnet(x)

    def convnet(self, x):
        # Layer i is a convolution, i + 1 its normalisation; one that doubles the width is pooled.
        numbers = sorted({
            int(k.split(".")[1]) for k, w in self.state.items()
            if k.startswith("conv_layers") and w.ndim == 4
        })  # fmt: skip
        for i in numbers:
            width = x.shape[1]
            x = F.relu(self.norm(f"conv_layers.{i + 1}", self.conv(f"conv_layers.{i}", x)))
            if i and x.shape[1] == 2 * width:
                x = F.max_pool2d(x, 2)
        weight, bias = (self.state[f"linear_layers.2.{k}"] for k in ("weight", "bias"))
        return x.amax((2, 3)) @ weight.T + bias

    def resnet(self, x):
        x = self.conv("conv1", x)
        for layer in range(1, 5):
            for block in range(2):
                name, stride = f"layer{layer}.{block}", 1 + (layer > 1 and block == 0)
                o = F.relu(self.norm(f"{name}.bn1", x))
                s = x
                if stride == 2:  # only there the shape changes
                    s = self.conv(f"{name}.shortcut.1", self.norm(f"{name}.shortcut.0", o), 2)
                o = self.conv(f"{name}.conv1", o, stride)
                x = self.conv(f"{name}.conv2", F.relu(self.norm(f"{name}.bn2", o))) + s
        x = F.relu(self.norm("bn", x)).mean((2, 3))
        return x @ self.state["linear.weight"].T


def trainable(state):
    return [k for k in state if "running" not in k and "batches" not in k]


def invariant(state):
    return [k for k in trainable(state) if state[k].ndim == 4]


def length(tensors):
    return math.sqrt(sum(t.double().square().sum().item() for t in tensors))


def loss_of(logits, y, squared=False):
    """Mean cross-entropy, or the mean over images and classes of (output - [is the label])^2."""
    if squared:
        return (logits - F.one_hot(y, logits.shape[1])).square().mean()
    return F.cross_entropy(logits, y)


def gradients(state, x, y, norm="batch", squared=False):
    """Mean loss, number of right answers, gradients by name; moves `state`'s statistics."""
    leaves = {k: state[k].clone().requires_grad_() for k in trainable(state)}
    inside = {**state, **leaves}
    logits = Network(inside, True, norm)(x)
    loss = loss_of(logits, y, squared)
    found = torch.autograd.grad(loss, list(leaves.values()))
    state.update({k: v for k, v in inside.items() if k not in leaves})
    right = (logits.argmax(1) == y).sum().item()
    return loss.item(), right, dict(zip(leaves, found, strict=True))


# --- training ---


def factor(progress, c_schedule=None, d_schedule=None, cosan_schedule=False, no_schedule=False):
    """The factor on the learning rate after a fraction of training."""
    if cosan_schedule:
        return (1 + math.cos(math.pi * progress)) / 2
    if no_schedule:
        return 1.0
    if c_schedule:
        return float(np.interp(progress, [0.25, 1], [1, 1 / c_schedule]))
    if d_schedule:
        return d_schedule ** -sum(progress > quarter for quarter in (0.25, 0.5, 0.75))
    return float(np.interp(progress, [0.5, 0.9], [1, 0.01]))


class Optimiser:
    """SGD with momentum or Adam, decay added to the gradient; AdamW, decay on its own."""

    def __init__(self, kind="sgd", momentum=0.0):
        self.kind, self.momentum, self.steps = kind, momentum, 0
        self.first, self.second = {}, {}

    def step(self, state, grads, rates, decays):
        self.steps += 1
        for k, rate in rates.items():
            g = grads[k]
            if self.kind == "adamw":
                state[k] = state[k] * (1 - rate * decays[k])
            else:
                g = g + decays[k] * state[k]
            if self.kind != "sgd":
                m = self.first[k] = 0.9 * self.first.get(k, 0) + 0.1 * g
                v = self.second[k] = 0.999 * self.second.get(k, 0) + 0.001 * g**2
                root = (v / (1 - 0.999**self.steps)).sqrt() + 1e-8
                state[k] = state[k] - rate * m / (1 - 0.9**self.steps) / root
            else:
                v = self.first[k] = self.momentum * self.first.get(k, 0) + g
                state[k] = state[k] - rate * v


def train(state, o, first=0):
    """Train from the weights of checkpoint `first`: yields (row of the log, state) by epoch.

    `o` has the options of train.py as attributes, read from the run's configuration.
    """
    (x, y, _), test = split(Path(o.data_path), o.use_test, o.use_data_size, o.corrupt_train or 0.0)
    si, others = invariant(state), set(trainable(state)) - set(invariant(state))
    radius = length(state[k] for k in si)
    if o.fix_si_pnorm and o.fix_si_pnorm_value > 0:
        radius = o.fix_si_pnorm_value
    sphere = o.fix_elr or o.fix_all_elr
    held = sphere or o.fix_si_pnorm
    base = o.elr * radius**2 if sphere else o.lr_init
    optimiser = Optimiser(o.optimizer, o.momentum)
    schedule = {k: getattr(o, k) for k in ("c_schedule", "d_schedule", "cosan_schedule",
                                           "no_schedule")}  # fmt: skip
    for epoch in range(first, first + o.epochs):
        rate = base * factor((epoch - first) / o.epochs, **schedule)
        rates = dict.fromkeys(si, rate)
        rates |= dict.fromkeys(others, rate if o.noninvlr == -1 else o.noninvlr)
        decays = {k: 0.0 if sphere and k in si else o.wd for k in rates}
        order = epoch_of(x, y, seed_of(o.seed, o.trial, epoch), not o.noaug)
        loss = right = 0
        summed = dict.fromkeys(rates, 0)
        for a, b in zip(*(part.split(o.batch_size) for part in order), strict=True):
            batch_loss, batch_right, grads = gradients(state, a, b, o.norm, o.use_squared_loss)
            loss, right = loss + batch_loss * len(b), right + batch_right
            if o.fbgd:
                summed = {k: summed[k] + grads[k] * len(b) / len(y) for k in rates}
                continue
            optimiser.step(state, grads, rates, decays)
            if held:
                project(state, si, radius, o.fix_all_elr)
        if o.fbgd:
            optimiser.step(state, summed, rates, decays)
            if held:
                project(state, si, radius, o.fix_all_elr)
        rho = length(state[k] for k in si)
        row = {
            "epoch": epoch + 1,
            "lr": rate,
            "train_loss": loss / len(y),
            "train_acc": right / len(y),
            "si_norm": rho,
            "effective_lr": rate / rho**2,
        }
        if (epoch + 1 - first) % o.eval_freq == 0 or epoch + 1 == first + o.epochs:
            found = evaluate(state, *test, o.norm, o.use_squared_loss)
            row["test_loss"], row["test_acc"] = found
        yield row, dict(state)


def project(state, si, radius, each_filter=False):
    if each_filter:
        count = sum(len(state[k]) for k in si)
        for k in si:
            filters = [w * (radius / math.sqrt(count) / length([w])) for w in state[k]]
            state[k] = torch.stack(filters)
        return
    now = length(state[k] for k in si)
    state.update({k: state[k] * (radius / now) for k in si})


# --- measuring ---


def renewed(state, batches):
    """`state` with the mean of the batches' own statistics instead of the running ones."""
    statistics = {k: 0 for k in state if "running" in k}
    for count, x in enumerate(batches, 1):
        fresh = {**state, **{k: torch.zeros_like(state[k]) for k in statistics}}
        Network(fresh, True)(x)  # moves them by a tenth of the batch's own
        statistics = {k: v + (10 * fresh[k] - v) / count for k, v in statistics.items()}
    return {**state, **statistics}


def evaluate(state, pixels, labels, norm="batch", squared=False):
    """Mean loss and accuracy with the running statistics."""
    with torch.no_grad():
        logits = Network(state, False, norm)(normalised(pixels))
    return loss_of(logits, labels, squared).item(), (
        logits.argmax(1) == labels
    ).double().mean().item()


def measure(state, pixels, labels, names, batch_size, train_mode=True, norm="batch"):
    """The arrays of one checkpoint on images in data-set order, gradients by `names` alone."""
    leaves = {k: state[k].clone().requires_grad_() for k in names}
    logits, vectors = [], []
    for x, y in zip(normalised(pixels).split(batch_size), labels.split(batch_size), strict=True):
        out = Network({**state, **leaves}, train_mode, norm)(x)
        found = torch.autograd.grad(F.cross_entropy(out, y), list(leaves.values()))
        vectors.append(torch.cat([g.double().flatten() for g in found]))
        logits.append(out.detach())
    logits, vectors = torch.cat(logits), torch.stack(vectors)
    right = (logits.argmax(1) == labels).double()
    losses = -logits.double().log_softmax(1)[torch.arange(len(labels)), labels]
    each = {f"{k}_norm": length([state[k]]) for k in names}
    sizes = {f"{k}_numel": state[k].numel() for k in names}
    return {
        "loss": losses.mean().item(),
        "acc": right.mean().item(),
        "gnorm_m": vectors.norm(dim=1).mean().item(),
        "gm_norm": vectors.mean(0).norm().item(),
        "gs_norm": vectors.std(0).norm().item(),
        "params_norm": length(state[k] for k in names),
        "params_numel": sum(sizes.values()),
        **each,
        **sizes,
    }, (losses, right)
