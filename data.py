"""Images as one uint8 tensor on the device; batches, crops and flips as a few tensor operations.

Every data set is read and decoded once, at the start. After that there is no per-image Python
work: a batch is one gather from the tensor, and an epoch's random numbers are drawn at once.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from utils import UserError, write_atomically

SIZE = 32  # height and width of CIFAR's images, and of the digits
PAD = 4  # zero padding for the random crops
HELD_OUT = 5000  # training images that are evaluated instead of the test set
CORRUPTION_SEED = 228  # the official code's
# The halves of ten classes (of CIFAR-10: vehicles and birds; animals) of --split_classes.
SPLIT_CLASSES = ((0, 1, 2, 8, 9), (3, 4, 5, 6, 7))
ORDER_SEED = 0
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# Mean and standard deviation over the 1,500 training digits, resized.
DIGITS_MEAN, DIGITS_STD = (0.3051,) * 3, (0.3222,) * 3


@dataclass(frozen=True)
class ImageSet:
    """Labelled images on one device.

    Attributes
    ----------
    images : uint8, (N, height, width, 3), all of one size.
    labels : int64, (N,).
    num_classes : int.
    mean, std : float32, (3,): per colour, of pixel values from 0 to 1.
    corrupted : bool, (N,): the label was replaced by a random one.
    memory_format : of the batches, as the network wants them.
    """

    images: torch.Tensor
    labels: torch.Tensor
    num_classes: int
    mean: torch.Tensor
    std: torch.Tensor
    corrupted: torch.Tensor
    memory_format: torch.memory_format = torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return tuple(self.images.shape[1:3])

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "ImageSet":
        """The same images on a device, with batches in a memory format."""
        tensors = ("images", "labels", "mean", "std", "corrupted")
        moved = {name: getattr(self, name).to(device) for name in tensors}
        return replace(self, memory_format=memory_format, **moved)

    def subset(self, index: torch.Tensor | slice) -> "ImageSet":
        """The images at `index`, in its order."""
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            corrupted=self.corrupted[index],
        )

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) with mean 0 and deviation 1 a colour."""
        scale, shift = self._normalisation
        x = torch.addcmul(shift, pixels.reshape(len(pixels), -1).float(), scale)
        x = x.view(-1, *self.size, 3).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=self.memory_format)

    @cached_property
    def _normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factor and summand for every value of an image; long rows are faster than 3 colours."""
        scale = 1 / (255 * self.std)
        pixels = math.prod(self.size)
        return scale.repeat(pixels), (-self.mean / self.std).repeat(pixels)

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        *,
        shuffle: bool = False,
        augment: bool = False,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch of (images, labels): float32 (B, 3, H, W) and int64 (B,).

        In data-set order, or with `shuffle` in an order drawn from the generator. With `augment`
        every image is padded with black by 4, cropped at random and flipped with probability 1/2.
        The last batch may be smaller. The generator lives on the CPU, so a run's random numbers
        are the same on every device.
        """
        n, device = len(self), self.images.device
        order = torch.randperm(n, generator=generator) if shuffle else torch.arange(n)
        order = order.to(device)
        if augment:
            windows = self._windows
            top, left = torch.randint(2 * PAD + 1, (2, n), generator=generator).to(device)
            flip = torch.randint(2, (n, 1, 1, 1), generator=generator).bool().to(device)
        for start in range(0, n, batch_size):
            part = slice(start, start + batch_size)
            index = order[part]
            if augment:
                pixels = windows[index, top[part], left[part]]
                pixels = torch.where(flip[part], pixels.flip(2), pixels)
            else:
                pixels = self.images.index_select(0, index)
            yield self.normalise(pixels), self.labels[index]

    @cached_property
    def _windows(self) -> torch.Tensor:
        """Every crop of every padded image, as a view (N, 9, 9, H, W, 3) that copies nothing."""
        padded = torch.nn.functional.pad(self.images, (0, 0, PAD, PAD, PAD, PAD))
        return (
            padded.unfold(1, self.size[0], 1).unfold(2, self.size[1], 1).permute(0, 1, 2, 4, 5, 3)
        )


def load(
    name: str,
    data_path: str | Path,
    *,
    use_test: bool = False,
    use_data_size: int | None = None,
    use_test_size: int | None = None,
    corrupt_train: float | None = None,
    split_classes: int | None = None,
) -> tuple[ImageSet, ImageSet]:
    """The training images, and the images to evaluate on, both on the CPU.

    Parameters
    ----------
    name : one of `DATASETS`.
    data_path : folder of the data; CIFAR is downloaded into it when it is not there.
    use_test : evaluate on the test set; else the last 5,000 training images (the last tenth of
        a training set smaller than 50,000) are held out and evaluated.
    use_data_size : keep the first N training images. The size of the whole training set stands for
        all that are left beside those held out.
    use_test_size : keep the first N images to evaluate on.
    corrupt_train : fraction of the training images that get uniformly random labels.
    split_classes : keep one of `SPLIT_CLASSES`, numbered anew, in both parts.

    Raises
    ------
    UserError : the data is missing or malformed, or has fewer images than asked for.
    """
    train, test = DATASETS[name](Path(data_path).expanduser())
    whole = len(train)
    if not use_test:
        held_out = min(HELD_OUT, max(len(train) // 10, 1))
        test = train.subset(slice(len(train) - held_out, None))
        train = train.subset(slice(0, len(train) - held_out))
    if not len(train):
        raise UserError(f"no training images are left of {name} beside the {len(test)} held out")
    if use_data_size == whole > len(train):
        print(f"note: --use_data_size {whole}: all {len(train)} that are not held out are used")
    elif use_data_size is not None:
        if use_data_size > len(train):
            raise UserError(
                f"--use_data_size {use_data_size} is more than the {len(train)} training images "
                f"of {name}" + ("" if use_test else f" ({len(test)} are held out: --use_test)")
            )
        train = train.subset(slice(0, use_data_size))
    if use_test_size is not None:
        if use_test_size > len(test):
            raise UserError(f"--use_test_size {use_test_size} is more than the {len(test)} images")
        test = test.subset(slice(0, use_test_size))
    if split_classes is not None:
        if train.num_classes != 10:
            raise UserError(f"--split_classes halves ten classes; {name} has {train.num_classes}")
        train, test = (half_of_classes(part, split_classes) for part in (train, test))
    if corrupt_train:
        train = corrupt(train, corrupt_train)
    return train, test


def half_of_classes(images: ImageSet, half: int) -> ImageSet:
    """The images of one of `SPLIT_CLASSES`, its classes numbered from 0."""
    classes = torch.tensor(SPLIT_CLASSES[half])
    kept = images.subset(torch.isin(images.labels, classes))
    labels = torch.searchsorted(classes, kept.labels)
    return replace(kept, labels=labels, num_classes=len(classes))


def corrupt(images: ImageSet, fraction: float) -> ImageSet:
    """Give every image with this probability a uniformly random label: those of the official code.

    Always the same ones, so old checkpoints are measured on the labels that they were trained on.
    """
    random = np.random.RandomState(CORRUPTION_SEED)
    corrupted = random.rand(len(images)) <= fraction
    labels = images.labels.clone()
    drawn = random.choice(images.num_classes, corrupted.sum())
    corrupted = torch.from_numpy(corrupted)
    labels[corrupted] = torch.from_numpy(drawn).to(labels.dtype)
    return replace(images, labels=labels, corrupted=corrupted)


# --- the data sets: each a function of the data's folder that gives (training set, test set) ---


def _image_set(images, labels, num_classes, mean=CIFAR_MEAN, std=CIFAR_STD) -> ImageSet:
    return ImageSet(
        torch.as_tensor(np.ascontiguousarray(images)),
        torch.as_tensor(np.asarray(labels, dtype=np.int64)),
        num_classes,
        torch.tensor(mean),
        torch.tensor(std),
        torch.zeros(len(labels), dtype=torch.bool),
    )


def _torchvision(name: str) -> Callable[[Path], tuple[ImageSet, ImageSet]]:
    def read(path: Path) -> tuple[ImageSet, ImageSet]:
        from torchvision import datasets  # slow to import, and only these need it

        dataset = getattr(datasets, name)
        svhn = name == "SVHN"
        file = dataset.split_list["train"][1] if svhn else dataset.base_folder
        # The official code kept each data set in a folder of its own below data_path.
        folders = [path, path / name, path / name.lower()]
        root = next((f for f in folders if (f / file).exists()), path)
        parts = ({"split": s} for s in ("train", "test")) if svhn else (
            {"train": t} for t in (True, False))  # fmt: skip
        try:
            train, test = (dataset(str(root), download=True, **part) for part in parts)
        except (OSError, RuntimeError) as error:
            archive = f"{file} and the test file" if svhn else f"the archive {dataset.filename}"
            raise UserError(
                f"{name} is not in {path} and could not be downloaded ({error}). Without a "
                f"network: put {archive} there by hand, or take "
                "--dataset Digits (needs no files) or --dataset ImageFolder (your own images)"
            ) from None
        if svhn:
            return tuple(_image_set(p.data.transpose(0, 2, 3, 1), p.labels, 10)
                         for p in (train, test))  # fmt: skip
        return tuple(_image_set(p.data, p.targets, len(train.classes)) for p in (train, test))

    return read


def _digits(path: Path) -> tuple[ImageSet, ImageSet]:
    del path  # scikit-learn brings the images along
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    grey = torch.nn.functional.interpolate(grey, SIZE, mode="bilinear", align_corners=False)
    images = grey.round().to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    whole = _image_set(images, digits.target, 10, DIGITS_MEAN, DIGITS_STD)
    return whole.subset(slice(0, 1500)), whole.subset(slice(1500, None))


def _image_folder(path: Path) -> tuple[ImageSet, ImageSet]:
    parts = []
    for split in ("train", "test"):
        if not (path / split).is_dir():
            raise UserError(f"no folder {path / split}: ImageFolder wants {split}/<class>/<image>")
        parts.append(_read_folder(path / split))
    (train, train_classes), (test, test_classes) = parts
    if train_classes != test_classes:
        odd = sorted(set(train_classes) ^ set(test_classes))
        raise UserError(f"the classes of train/ and test/ in {path} differ: {', '.join(odd)}")
    if train.size != test.size:
        sizes = [_size(part.images[0].numpy()) for part in (train, test)]
        raise UserError(f"the images of train/ in {path} are {sizes[0]}, of test/ {sizes[1]}")
    return train, test


def _read_folder(folder: Path) -> tuple[ImageSet, list[str]]:
    """The images of <folder>/<class>/*, shuffled once for all so that a part is a fair sample."""
    classes = sorted(entry.name for entry in _visible(folder) if entry.is_dir())
    files = [
        (f"{name}/{entry.name}", label, entry.stat())
        for label, name in enumerate(classes)
        for entry in sorted(_visible(folder / name), key=lambda entry: entry.name)
        if entry.is_file()
    ]
    if not files:
        raise UserError(f"no images in {folder}: ImageFolder wants {folder.name}/<class>/<image>")
    order = np.random.RandomState(ORDER_SEED).permutation(len(files))
    names, labels, stats = zip(*(files[i] for i in order), strict=True)
    return _image_set(_decode_cached(folder, names, stats), labels, len(classes)), classes


def _visible(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.name[0] != "."]


def _decode_cached(
    folder: Path, names: Sequence[str], stats: Sequence[os.stat_result]
) -> np.ndarray:
    """Decoded files, uint8 (N, H, W, 3), from a cache beside the folder if none has changed.

    The name of the cache is made from the files' names, sizes and times. It is mapped into
    memory, so that of a large data set only the images in use are read.
    """
    about = [(name, s.st_size, s.st_mtime_ns) for name, s in zip(names, stats, strict=True)]
    fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    cache = folder.parent / f".{folder.name}-{fingerprint}.npy"
    try:
        images = np.load(cache, mmap_mode="c")
        if images.ndim == 4 and len(images) == len(names):
            return images
    except (OSError, ValueError, EOFError):
        pass  # no cache yet, or a damaged one: it is made again
    with ThreadPoolExecutor() as pool:  # decoding releases Python's lock
        decoded = list(pool.map(_decode, (folder / name for name in names)))
    for name, image in zip(names, decoded, strict=True):
        if image.shape != decoded[0].shape:
            raise UserError(
                f"{folder / name} is {_size(image)}, {folder / names[0]} is {_size(decoded[0])}; "
                "all images must be of one size"
            )
    images = np.stack(decoded)
    try:
        buffer = io.BytesIO()
        np.save(buffer, images)
        write_atomically(cache, buffer.getvalue())
        for old in set(folder.parent.glob(f".{folder.name}-*.npy")) - {cache}:
            old.unlink(missing_ok=True)
    except OSError as error:
        print(f"note: the decoded images are not cached in {cache} ({error.strerror})")
    return images


def _decode(file: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError):
        raise UserError(f"{file} is not an image that can be read") from None


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


DATASETS: dict[str, Callable[[Path], tuple[ImageSet, ImageSet]]] = {
    **{name: _torchvision(name) for name in ("CIFAR10", "CIFAR100", "SVHN")},
    "Digits": _digits,
    "ImageFolder": _image_folder,
}
