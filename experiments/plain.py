"""Training and measuring as people usually write it: what benchmark.py compares the project with.

torchvision's ImageFolder with PIL transforms, a DataLoader with 4 workers, `.item()` in every
batch, a pass over the data for each quantity.
"""

import argparse
import statistics
import tempfile
import time

import torch
from torch.nn import functional as F
from torchvision import datasets, transforms

import data
import models
from experiments.speed import BATCH
from training.device import autocast, products, select_device

WORKERS = 4


def run(options: argparse.Namespace) -> dict[str, float]:
    """Train and measure: median seconds of an epoch, and of the metrics of a checkpoint."""
    device = select_device(options.gpu)
    tensor = [
        transforms.ToTensor(),
        transforms.Normalize(data.CIFAR_MEAN, data.CIFAR_STD),
    ]
    augmentation = [transforms.RandomCrop(data.SIZE, data.PAD), transforms.RandomHorizontalFlip()]

    def images(split, transform):
        return datasets.ImageFolder(f"{options.data_path}/{split}", transforms.Compose(transform))

    def loader(dataset, shuffle=False):
        return torch.utils.data.DataLoader(dataset, BATCH, shuffle=shuffle, num_workers=WORKERS)

    chosen = torch.randperm(len(images("train", [])))[: options.images].tolist()
    augmented = torch.utils.data.Subset(images("train", augmentation + tensor), chosen)
    train = torch.utils.data.Subset(images("train", tensor), chosen)
    test = images("test", tensor)
    model = models.build("ConvNetSI", 10, options.width, init_scale=10).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.001)
    times: dict[str, list[float]] = {"epoch": [], "metrics": []}

    def measure():
        with torch.no_grad():
            total = 0.0
            for x, y in loader(train):
                x, y = x.to(device), y.to(device)
                total += F.cross_entropy(model(x), y).item() * len(y)
        norms = []
        for x, y in loader(train):
            x, y = x.to(device), y.to(device)
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            norms.append(sum(p.grad.norm().item() ** 2 for p in model.parameters()) ** 0.5)
        model.eval()
        with torch.no_grad():
            correct = 0
            for x, y in loader(test):
                x, y = x.to(device), y.to(device)
                correct += (model(x).argmax(1) == y).sum().item()
        model.train()

    for epoch in range(options.epochs + 1):
        if epoch:
            began = time.perf_counter()
            for x, y in loader(augmented, shuffle=True):
                x, y = x.to(device), y.to(device)
                optimizer.zero_grad()
                with products(options.precision):
                    with autocast(options.precision, device):
                        loss = F.cross_entropy(model(x), y)
                    loss.backward()
                optimizer.step()
                loss.item()
            times["epoch"].append(time.perf_counter() - began)
        began = time.perf_counter()
        measure()
        times["metrics"].append(time.perf_counter() - began)
        with tempfile.TemporaryFile() as file:
            torch.save({"state_dict": model.state_dict()}, file)
    return {name: statistics.median(values) for name, values in times.items()}
