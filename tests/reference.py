"""Training and measuring once more, plainly: shares no line with the project, torch alone.

Images are floats, networks functions of a state dict; the optimisers, the loop and the projection
are written out.
"""

import itertools
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.autograd.functional import hessian, jacobian
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
    (x, y), test = read_folder(folder / "train"), read_folder(folder / "test")
    if not use_test:  # the last tenth is held out
        cut = len(y) - len(y) // 10
        (x, y), test = (x[:cut], y[:cut]), (x[cut:], y[cut:])
    x, y = x[:use_data_size], y[:use_data_size]
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


def convnet_blocks(depth):
    """Of every convolution of a ConvNet: its number in `conv_layers`, where its norm, its ReLU and
    the pooling are numbered too; its width in units of c; whether the image is pooled after it.

    The first keeps the width. Then stage k = 0, 1, 2 has ceil((depth - k) / 3) of them, and the
    last of a stage doubles the width and halves the image.
    """
    blocks, number, width = [(0, 1, False)], 3, 1
    for stage in range(3):
        for left in reversed(range(math.ceil((depth - stage) / 3))):
            width *= 1 + (left == 0)
            blocks.append((number, width, left == 0))
            number += 3 + (left == 0)
    return blocks


def shapes(name, c, classes, depth=3, norm="batch"):
    """The shape of everything in the state dict of a network of width c, by its name."""
    convs, norms, inputs = [], [], 3  # (name, inputs, outputs, kernel); (name, channels)
    if name.startswith("ConvNet"):
        for i, width, _ in convnet_blocks(depth):
            convs.append((f"conv_layers.{i}", inputs, c * width, 3))
            norms.append((f"conv_layers.{i + 1}", c * width))
            inputs = c * width
        found = {"linear_layers.2.weight": (classes, inputs), "linear_layers.2.bias": (classes,)}
    else:
        convs, inputs = [("conv1", 3, c, 3)], c
        for layer, block in itertools.product(range(1, 5), range(2)):
            key, outputs = f"layer{layer}.{block}", c * 2 ** (layer - 1)
            convs += [(f"{key}.conv1", inputs, outputs, 3), (f"{key}.conv2", outputs, outputs, 3)]
            norms += [(f"{key}.bn1", inputs), (f"{key}.bn2", outputs)]
            if inputs != outputs:
                convs.append((f"{key}.shortcut.1", inputs, outputs, 1))
                norms.append((f"{key}.shortcut.0", inputs))
            inputs = outputs
        norms.append(("bn", inputs))
        found = {"linear.weight": (classes, inputs)}
    for key, inputs, outputs, kernel in convs:
        weight = "parametrizations.weight.original" if norm == "weight" else "weight"
        found[f"{key}.{weight}"] = (outputs, inputs, kernel, kernel)
        if norm == "weight":
            found[f"{key}.parametrizations.weight.0.g"] = (outputs, 1, 1, 1)
    for key, channels in norms:
        vectors = ("weight", "bias") * name.endswith("Af")
        if norm == "batch":
            vectors += ("running_mean", "running_var")
            found[f"{key}.num_batches_tracked"] = ()
        found |= {f"{key}.{each}": (channels,) for each in vectors}
    return found


class Network:
    """Logits of a ConvNet or a ResNet-18 whose weights and statistics are in `state`.

    In train mode batch norm's running statistics in `state` are moved by a tenth.
    """

    def __init__(self, state, train, norm="batch", depth=3, eps=1e-12, groups=4):
        self.state, self.train, self.kind, self.depth = state, train, norm, depth
        self.eps, self.groups = eps, groups

    def conv(self, name, x, stride=1):
        w = self.state.get(f"{name}.weight")
        if w is None:  # weight normalisation: filters of a fixed norm g
            v = self.state[f"{name}.parametrizations.weight.original"]
            g = self.state[f"{name}.parametrizations.weight.0.g"]
            w = g * v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)

    def norm(self, name, x):
        state, channels = self.state, x.shape[1]
        if self.kind == "batch":
            names = [f"{name}.running_mean", f"{name}.running_var"]
            mean, var = (state[key] for key in names)
            if self.train:
                mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
                n = x.numel() / channels
                for key, now in zip(names, (mean, var * n / (n - 1)), strict=True):
                    state[key] = 0.9 * state[key] + 0.1 * now.detach()
                state[f"{name}.num_batches_tracked"] = state[f"{name}.num_batches_tracked"] + 1
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
        for i, _, pooled in convnet_blocks(self.depth):
            x = F.relu(self.norm(f"conv_layers.{i + 1}", self.conv(f"conv_layers.{i}", x)))
            x = F.max_pool2d(x, 2) if pooled else x
        weight, bias = (self.state[f"linear_layers.2.{k}"] for k in ("weight", "bias"))
        return x.amax((2, 3)) @ weight.T + bias

    def resnet(self, x):
        x = self.conv("conv1", x)
        for layer, block in itertools.product(range(1, 5), range(2)):
            name, stride = f"layer{layer}.{block}", 1 + (layer > 1 and block == 0)
            o = F.relu(self.norm(f"{name}.bn1", x))
            if stride == 2:  # only there the shape changes
                x = self.conv(f"{name}.shortcut.1", self.norm(f"{name}.shortcut.0", o), 2)
            o = self.conv(f"{name}.conv1", o, stride)
            x = x + self.conv(f"{name}.conv2", F.relu(self.norm(f"{name}.bn2", o)))
        x = F.relu(self.norm("bn", x)).mean((2, 3))
        return x @ self.state["linear.weight"].T


def trainable(state):
    fixed = ("running", "batches", "parametrizations.weight.0.g")
    return [k for k in state if not any(name in k for name in fixed)]


def invariant(state):
    return [k for k in trainable(state) if state[k].ndim == 4]


def length(tensors):
    return math.sqrt(sum(t.double().square().sum().item() for t in tensors))


def losses_of(logits, y, squared=False):
    """Cross-entropy of each image, or the mean over classes of (output - [is the label])^2."""
    if squared:
        return (logits - F.one_hot(y, logits.shape[1])).square().mean(1)
    return -logits.log_softmax(1)[torch.arange(len(y)), y]


def gradients(state, x, y, train=True, squared=False, **kind):
    """Outputs, mean loss and gradients by name; in train mode moves `state`'s statistics."""
    leaves = {k: state[k].clone().requires_grad_() for k in trainable(state)}
    inside = {**state, **leaves}
    logits = Network(inside, train, **kind)(x)
    loss = losses_of(logits, y, squared).mean()
    found = torch.autograd.grad(loss, list(leaves.values()))
    state.update({k: inside[k] for k in state if k not in leaves})
    return logits.detach(), loss.item(), dict(zip(leaves, found, strict=True))


# --- training ---


def factor(progress, o):
    """The factor on the learning rate after a fraction of training."""
    if o.cosan_schedule:
        return (1 + math.cos(math.pi * progress)) / 2
    if o.d_schedule and not o.c_schedule:
        return o.d_schedule ** -sum(progress > quarter for quarter in (0.25, 0.5, 0.75))
    times, factors = [0.5, 0.9], [1, 0.01]
    if o.c_schedule:
        times, factors = [0.25, 1], [1, 1 / o.c_schedule]
    return 1.0 if o.no_schedule else float(np.interp(progress, times, factors))


class Optimiser:
    """SGD with momentum or Adam, decay added to the gradient; AdamW, decay on its own."""

    def __init__(self, kind="sgd", momentum=0.0):
        self.kind, self.momentum, self.steps = kind, momentum, 0
        self.first, self.second = {}, {}

    def step(self, state, grads, rates, decays):
        self.steps += 1
        for k, rate in rates.items():
            g, decay = grads[k], decays[k] * state[k]
            if self.kind == "sgd":
                change = self.first[k] = self.momentum * self.first.get(k, 0) + g + decay
            else:
                g = g + decay if self.kind == "adam" else g
                m = self.first[k] = 0.9 * self.first.get(k, 0) + 0.1 * g
                v = self.second[k] = 0.999 * self.second.get(k, 0) + 0.001 * g**2
                root = (v / (1 - 0.999**self.steps)).sqrt() + 1e-8
                change = m / (1 - 0.9**self.steps) / root
                change = change + decay if self.kind == "adamw" else change
            state[k] = state[k] - rate * change


def train(state, o, first=0):
    """Train from the weights of checkpoint `first`: yields (row of the log, state) by epoch.

    `o` has the options of train.py as attributes, read from the run's configuration.
    """
    (x, y, _), test = split(Path(o.data_path), o.use_test, o.use_data_size, o.corrupt_train or 0.0)
    si, sphere = invariant(state), o.fix_elr or o.fix_all_elr
    held_at = o.fix_si_pnorm_value if o.fix_si_pnorm else -1
    radius = held_at if held_at > 0 else length(state[k] for k in si)
    base = o.elr * radius**2 if sphere else o.lr_init
    optimiser = Optimiser(o.optimizer, o.momentum)
    network = {"norm": o.norm, "depth": o.depth, "squared": o.use_squared_loss}
    for epoch in range(first, first + o.epochs):
        rate = base * factor((epoch - first) / o.epochs, o)
        own = rate if o.noninvlr == -1 else o.noninvlr  # of the other weights
        rates = {k: rate if k in si else own for k in trainable(state)}
        decays = {k: 0.0 if sphere and k in si else o.wd for k in rates}
        order = epoch_of(x, y, seed_of(o.seed, o.trial, epoch), not o.noaug)
        loss = right = seen = 0
        summed = dict.fromkeys(rates, 0)
        for a, b in zip(*(part.split(o.batch_size) for part in order), strict=True):
            logits, batch_loss, grads = gradients(state, a, b, **network)
            loss, right = loss + batch_loss * len(b), right + (logits.argmax(1) == b).sum().item()
            summed, seen = {k: summed[k] + grads[k] * len(b) for k in rates}, seen + len(b)
            if o.fbgd and seen < len(y):  # one step an epoch, with the mean over all images
                continue
            mean = {k: summed[k] / seen for k in rates} if o.fbgd else grads
            optimiser.step(state, mean, rates, decays)
            if sphere or o.fix_si_pnorm:
                project(state, si, radius, o.fix_all_elr)
        rho = length(state[k] for k in si)
        row = {
            "epoch": epoch + 1, "lr": rate, "train_loss": loss / len(y),
            "train_acc": right / len(y), "si_norm": rho,
            "effective_lr": rate / rho ** (2 if o.optimizer == "sgd" else 1),
        }  # fmt: skip
        if (epoch + 1 - first) % o.eval_freq == 0 or epoch + 1 == first + o.epochs:
            row["test_loss"], row["test_acc"] = evaluate(state, *test, **network)
        yield row, dict(state)


def project(state, si, radius, each_filter=False):
    """Rescale the SI weights to a norm, each filter to an equal part of it if asked for."""
    count, now = sum(len(state[k]) for k in si), length(state[k] for k in si)
    for k in si:
        if each_filter:
            filters = [w * (radius / math.sqrt(count) / length([w])) for w in state[k]]
            state[k] = torch.stack(filters)
        else:
            state[k] = state[k] * (radius / now)


# --- measuring ---


def renewed(state, batches):
    """`state` with the mean of the batches' own statistics instead of the running ones."""
    zero = {k: torch.zeros_like(v) for k, v in state.items() if "running" in k}
    seen = [{**state, **zero} for _ in batches]
    for fresh, x in zip(seen, batches, strict=True):
        Network(fresh, True)(x)  # moves them by a tenth of the batch's own
    return {**state, **{k: sum(10 * fresh[k] for fresh in seen) / len(seen) for k in zero}}


def evaluate(state, pixels, labels, squared=False, **kind):
    """Mean loss and accuracy with the running statistics."""
    with torch.no_grad():
        logits = Network(state, False, **kind)(normalised(pixels))
    right = (logits.argmax(1) == labels).double()
    return losses_of(logits, labels, squared).mean().item(), right.mean().item()


def measure(state, images, names, batch_size, train_mode=True, squared=False, **kind):
    """The arrays of one checkpoint on normalised images, labels and which of these are corrupted.

    Batches are in data-set order; the norms of weights and gradients are those of `names`.
    """
    logits, vectors, filters, wrong, statistics = [], [], [], [], []
    for x, y in zip(*(part.split(batch_size) for part in images[:2]), strict=True):
        out, _, grads = gradients(dict(state), x, y, train_mode, squared, **kind)
        vectors.append(torch.cat([grads[k].double().flatten() for k in names]))
        filters.append([length([f]) for k in invariant(state) for f in grads[k]])
        logits.append(out)
        classes = range(out.shape[1])
        wrong.append([((out.argmax(1) != y) & (y == c)).sum().item() for c in classes])
        statistics.append([statistics_of(out.softmax(1)[y == c]) for c in classes])
    logits, vectors, (_, labels, corrupted) = torch.cat(logits), torch.stack(vectors), images
    right = (logits.argmax(1) == labels).double()
    losses = losses_of(logits.double(), labels, squared)
    found = {
        "gnorm_m": vectors.norm(dim=1).mean(),
        "gnorm_all": vectors.norm(dim=1),
        "gnorm_m_param_groups": torch.tensor(filters).mean(0),
        "gm_norm": vectors.mean(0).norm(),
        "gs_norm": vectors.std(0).norm(),
        "outliers_list": torch.tensor(wrong),
        "p_stats": torch.tensor(statistics).permute(2, 0, 1, 3),
        "params_norm": length(state[k] for k in names),
        "params_numel": sum(state[k].numel() for k in names),
    }
    for k in names:
        found |= {f"{k}_norm": length([state[k]]), f"{k}_numel": state[k].numel()}
    for ending, part in (("", ...), ("_corrupt", corrupted), ("_normal", ~corrupted)):
        found |= {f"loss{ending}": losses[part].mean(), f"acc{ending}": right[part].mean()}
    return found


def since(first, now):
    """Cosine of the SI weights with the first ones; distance of all weights from them."""
    a, b = (torch.cat([s[k].double().flatten() for k in invariant(s)]) for s in (first, now))
    distance = length(now[k] - first[k] for k in trainable(now))
    return {"cos_init": a @ b / a.norm() / b.norm(), "l2_init": distance}


def statistics_of(p):
    """Mean, deviation, minimum, maximum and median of probabilities (images, classes)."""
    if not len(p):
        return [[math.nan] * p.shape[1]] * 5
    deviation = ((p - p.mean(0)).square().sum(0) / (len(p) - 1)).sqrt()
    found = (p.mean(0), deviation, p.amin(0), p.amax(0), p.median(0)[0])
    return [part.tolist() for part in found]


def curvature(state, images, batch_size, squared=False, **kind):
    """(Hessian, Fisher matrix) of the SI weights by subset of the images, in train mode.

    The subsets are "" (all), "_corrupt" and "_normal", each in the batches of the whole set. The
    Fisher matrix is the mean of JᵀAJ with J the derivative of an image's outputs by the weights
    and A that of its loss, twice, by the outputs.
    """
    state = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    names = invariant(state)
    w = torch.cat([state[k].flatten() for k in names])

    def outputs(w, x):
        parts = zip(names, w.split([state[k].numel() for k in names]), strict=True)
        weights = {k: v.view(state[k].shape) for k, v in parts}
        return Network({**state, **weights}, True, **kind)(x.double())

    def loss(w, x, y, part):
        return losses_of(outputs(w, x), y, squared)[part].sum()

    sums = {"_corrupt": 0, "_normal": 0}
    for x, y, bad in zip(*(part.split(batch_size) for part in images), strict=True):
        slopes, p = jacobian(partial(outputs, x=x), w), outputs(w, x).softmax(1)
        inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        if squared:
            inner = torch.eye(p.shape[1]).double().expand_as(inner) * 2 / p.shape[1]
        for ending, part in (("_corrupt", bad), ("_normal", ~bad)):
            curved = hessian(partial(loss, x=x, y=y, part=part), w)
            fisher = torch.einsum("nia,nij,njb->ab", slopes[part], inner[part], slopes[part])
            sums[ending] += torch.stack([curved, fisher])
    sums[""] = sums["_corrupt"] + sums["_normal"]
    counts = {"": len(images[1]), "_corrupt": images[2].sum(), "_normal": (~images[2]).sum()}
    return {ending: matrices / counts[ending] for ending, matrices in sums.items()}
