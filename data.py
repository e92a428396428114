"""Data sets: one uint8 tensor of images on the device; batches and augmentation from it.

Every data set is decoded once, at the start. After that no Python code runs per image: a batch is
one gather from the tensor, and the random numbers of an epoch are drawn at once.
"""

import contextlib
import hashlib
import io
import json
import math
import mimetypes
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from options import Measure, Train
from utils import UserError, plural, write_atomically

SIZE = 32  # height and width of CIFAR's images, and of the digits
PAD = 4  # pixels of zero padding for the random crops
HELD_OUT = 5000  # training images that are held out without --use_test
CORRUPTION_SEED = 228  # as in the official code
# The two halves of ten classes for --split_classes (CIFAR-10: vehicles and birds; other animals).
SPLIT_CLASSES = ((0, 1, 2, 8, 9), (3, 4, 5, 6, 7))
ORDER_SEED = 0  # of the order of an ImageFolder
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# Mean and standard deviation of the 1,500 training digits, resized.
DIGITS_MEAN, DIGITS_STD = (0.3051,) * 3, (0.3222,) * 3


@dataclass(frozen=True)
class ImageSet:
    """Labelled images on one device.

    Attributes
    ----------
    images : uint8, (N, height, width, 3).
    labels : int64, (N,), from 0 to num_classes - 1.
    mean, std : float32, (3,): of each colour, for pixel values from 0 to 1.
    corrupted : bool, (N,): whether the label was replaced by a random one.
    memory_format : of the batches.
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
        """Height and width."""
        return tuple(self.images.shape[1:3])

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "ImageSet":
        tensors = ("images", "labels", "mean", "std", "corrupted")
        moved = {name: getattr(self, name).to(device) for name in tensors}
        return replace(self, memory_format=memory_format, **moved)

    def subset(self, index: torch.Tensor | slice) -> "ImageSet":
        kept = {name: getattr(self, name)[index] for name in ("images", "labels", "corrupted")}
        return replace(self, **kept)

    def checksum(self) -> int:
        """A number by which data sets differ: of all labels and about a hundred images."""
        some = self.images[:: max(len(self) // 100, 1)].cpu().numpy()
        return zlib.crc32(some.tobytes(), zlib.crc32(self.labels.cpu().numpy().tobytes()))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise each colour: uint8 (B, H, W, 3) -> float32 (B, 3, H, W)."""
        scale, shift = self._normalisation
        x = torch.addcmul(shift, pixels.reshape(len(pixels), -1).float(), scale)
        x = x.view(-1, *self.size, 3).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=self.memory_format)

    @cached_property
    def _normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift for every value of an image: long rows are faster than rows of 3."""
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
        """One epoch of (images, labels): float32 (B, 3, H, W), int64 (B,). With `augment` every
        image is padded by 4 black pixels, cropped at random and flipped with probability 1/2. The
        `generator` is on the CPU, so that random numbers do not depend on the device."""
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
        """Every crop of every padded image: a view (N, 9, 9, H, W, 3) that uses no more memory."""
        padded = torch.nn.functional.pad(self.images, (0, 0, PAD, PAD, PAD, PAD))
        crops = padded.unfold(1, self.size[0], 1).unfold(2, self.size[1], 1)
        return crops.permute(0, 1, 2, 4, 5, 3)


def load(options: Train | Measure, use_test: bool) -> tuple[ImageSet, ImageSet]:
    """Load the training images and the images to evaluate on, both on the CPU.

    Data sets of torchvision that are not there are downloaded. Raises UserError if the data is
    missing or malformed, or there are fewer images than asked for.

    Parameters
    ----------
    options : the data set, its folder, and which of its images and labels. If use_data_size is the
        size of the whole training set, all images that are not held out are kept.
    use_test : evaluate on the test set. Otherwise the last 5,000 training images (the last tenth
        of fewer than 50,000) are held out and evaluated, and an ImageFolder needs no test/.
    """
    name, path = options.dataset, Path(options.data_path).expanduser()
    use_data_size, use_test_size = options.use_data_size, options.use_test_size
    train, test = DATASETS[name](path)
    whole = len(train)
    if use_test and test is None:
        raise UserError(f"no folder {path / 'test'}, which is needed for --use_test and --metrics")
    if not use_test:
        held_out = min(HELD_OUT, max(len(train) // 10, 1))
        test = train.subset(slice(len(train) - held_out, None))
        train = train.subset(slice(0, len(train) - held_out))
    if use_data_size == whole > len(train):
        print(f"note: --use_data_size {whole}: training on all {len(train)} that are not held out")
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
    if options.split_classes is not None:
        if train.num_classes != 10:
            raise UserError(f"--split_classes needs ten classes; {name} has {train.num_classes}")
        train, test = (half_of_classes(part, options.split_classes) for part in (train, test))
    if not len(test):
        raise UserError(f"no images of {name} to evaluate on are left")
    if options.corrupt_train:
        train = corrupt(train, options.corrupt_train)
    if len(train.labels.unique()) < 2:
        left = f"{plural(len(train), 'training image')} of {name}"
        raise UserError(f"{left} of fewer than two classes are left: there is nothing to learn")
    return train, test


def half_of_classes(images: ImageSet, half: int) -> ImageSet:
    """The images of the classes SPLIT_CLASSES[half], labelled from 0."""
    classes = torch.tensor(SPLIT_CLASSES[half])
    kept = images.subset(torch.isin(images.labels, classes))
    labels = torch.searchsorted(classes, kept.labels)
    return replace(kept, labels=labels, num_classes=len(classes))


def corrupt(images: ImageSet, fraction: float) -> ImageSet:
    """Replace the label of each image by a uniformly random one, with probability `fraction`. The
    random numbers are those of the official code, so that its checkpoints keep their labels."""
    random = np.random.RandomState(CORRUPTION_SEED)
    corrupted = random.rand(len(images)) <= fraction
    labels = images.labels.clone()
    drawn = random.choice(images.num_classes, corrupted.sum())
    corrupted = torch.from_numpy(corrupted)
    labels[corrupted] = torch.from_numpy(drawn).to(labels.dtype)
    return replace(images, labels=labels, corrupted=corrupted)


# --- the data sets: functions of the data's folder that return (training set, test set) ---


def _image_set(images, labels, num_classes, mean=CIFAR_MEAN, std=CIFAR_STD) -> ImageSet:
    return ImageSet(
        torch.as_tensor(np.ascontiguousarray(images)),
        torch.as_tensor(np.asarray(labels, dtype=np.int64)),
        num_classes,
        torch.tensor(mean),
        torch.tensor(std),
        torch.zeros(len(labels), dtype=torch.bool),
    )


def _torchvision(name: str, path: Path) -> tuple[ImageSet, ImageSet]:
    from torchvision import datasets  # imported here because it is slow

    dataset = getattr(datasets, name)
    svhn = name == "SVHN"
    file = dataset.split_list["train"][1] if svhn else dataset.base_folder
    # The official code keeps each data set in a folder of its own below data_path.
    folders = [path, path / name, path / name.lower()]
    root = next((f for f in folders if (f / file).exists()), path)
    parts = [{"split": "train"}, {"split": "test"}] if svhn else [{"train": True}, {"train": False}]
    existed = path.exists()
    try:
        train, test = (dataset(str(root), download=True, **part) for part in parts)
    except (OSError, RuntimeError) as error:
        if not existed:
            with contextlib.suppress(OSError):  # a part of the archive may be in it
                path.rmdir()
        archive = f"{file} and the test file" if svhn else f"the archive {dataset.filename}"
        raise UserError(
            f"{name} is not in {path} and could not be downloaded ({error}). Put {archive} there "
            "by hand, or use --dataset Digits (needs no files) or ImageFolder (your own images)"
        ) from None
    if svhn:
        return tuple(_image_set(p.data.transpose(0, 2, 3, 1), p.labels, 10) for p in (train, test))
    return tuple(_image_set(p.data, p.targets, len(train.classes)) for p in (train, test))


def _digits(path: Path) -> tuple[ImageSet, ImageSet]:
    del path  # scikit-learn contains the images
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    grey = torch.nn.functional.interpolate(grey, SIZE, mode="bilinear", align_corners=False)
    images = grey.round().to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    whole = _image_set(images, digits.target, 10, DIGITS_MEAN, DIGITS_STD)
    return whole.subset(slice(0, 1500)), whole.subset(slice(1500, None))


def _image_folder(path: Path) -> tuple[ImageSet, ImageSet | None]:
    if not (path / "train").is_dir():
        raise UserError(f"no folder {path / 'train'}: ImageFolder needs train/<class>/<image>")
    train, classes = _read_folder(path / "train")
    for label in set(range(len(classes))) - set(train.labels.tolist()):
        raise UserError(f"no images in {path / 'train' / classes[label]}")
    if not (path / "test").is_dir():
        return train, None
    test, test_classes = _read_folder(path / "test")
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))
        raise UserError(f"the classes of train/ and test/ in {path} differ: {', '.join(odd)}")
    if train.size != test.size:
        sizes = [_size(part.images[0].numpy()) for part in (train, test)]
        raise UserError(f"the images of train/ in {path} are {sizes[0]}, of test/ {sizes[1]}")
    return train, test


def _read_folder(folder: Path) -> tuple[ImageSet, list[str]]:
    """The images below <folder>/<class>, in a fixed random order: any slice is a sample."""
    entries = _visible(folder)
    classes = [entry.name for entry in entries if entry.is_dir()]
    for entry in entries:
        if entry.is_symlink() and not Path(entry).exists():
            raise UserError(f"{entry.path} is a broken link")
        if entry.is_file() and (mimetypes.guess_type(entry.name)[0] or "").startswith("image/"):
            raise UserError(f"{entry.path} is in no class: ImageFolder needs <class>/<image>")
    files = [
        (os.path.relpath(entry, folder), label, entry.stat())
        for label, name in enumerate(classes)
        for entry in _files(folder / name)
    ]
    if not files:
        raise UserError(f"no images in {folder}: ImageFolder needs {folder.name}/<class>/<image>")
    order = np.random.RandomState(ORDER_SEED).permutation(len(files))
    names, labels, stats = zip(*(files[i] for i in order), strict=True)
    return _image_set(_decode_cached(folder, names, stats), labels, len(classes)), classes


def _files(folder: Path) -> Iterator[os.DirEntry]:
    """All files of a class, those of subfolders too."""
    for entry in _visible(folder):
        if entry.is_file():
            yield entry
        elif entry.is_dir() and not folder.resolve().is_relative_to(Path(entry).resolve()):
            yield from _files(Path(entry))
        else:
            raise UserError(f"{entry.path} is not an image: a broken or circular link, or a device")


def _visible(folder: Path) -> list[os.DirEntry]:
    """What is in a folder, by name, without hidden files."""
    with os.scandir(folder) as entries:
        visible = (entry for entry in entries if entry.name[0] != ".")
        return sorted(visible, key=lambda entry: entry.name)


def _decode_cached(
    folder: Path, names: Sequence[str], stats: Sequence[os.stat_result]
) -> np.ndarray:
    """The decoded files, uint8 (N, H, W, 3), from a cache beside the folder if no file has changed.
    It is named after the files' names, sizes and times, and mapped into memory: of a large data set
    only the images in use are read."""
    about = [(name, s.st_size, s.st_mtime_ns) for name, s in zip(names, stats, strict=True)]
    fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    cache = folder.parent / f".{folder.name}.{fingerprint}.npy"
    try:
        images = np.load(cache, mmap_mode="c")
        if images.dtype == np.uint8 and (len(images), *images.shape[3:]) == (len(names), 3):
            return images
    except Exception:  # there is none yet, or it is damaged: NumPy raises many kinds
        pass
    with ThreadPoolExecutor() as pool:  # decoding releases the GIL
        decoded = list(pool.map(_decode, (folder / name for name in names)))
    for name, image in zip(names, decoded, strict=True):
        if image.shape != decoded[0].shape:
            raise UserError(
                f"{folder / name} is {_size(image)}, {folder / names[0]} is {_size(decoded[0])}; "
                "all images must have the same size"
            )
    images = np.stack(decoded)
    try:
        buffer = io.BytesIO()
        np.save(buffer, images)
        write_atomically(cache, buffer.getvalue())
        for old in set(folder.parent.glob(f".{folder.name}[.-]*.npy")) - {cache}:
            old.unlink(missing_ok=True)
    except OSError as error:
        print(f"note: the decoded images are not cached in {cache} ({error.strerror})")
    return images


def _decode(file: Path) -> np.ndarray:
    """One image as a viewer shows it, turned as its EXIF data say: uint8 (H, W, 3)."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            frames, kind = getattr(image, "n_frames", 1), image.format
            image = ImageOps.exif_transpose(image)
        is_deep = image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG")
        if is_deep and "transparency" in image.info:
            raise UserError(f"{file} has a transparent shade of grey: save it without")
        if image.mode[-1] in "Aa" or "transparency" in image.info:
            image = image.convert("RGBA")
            if image.getextrema()[3][0] < 255:
                raise UserError(f"{file} has transparent pixels, whose colour is not defined")
        if is_deep:
            grey = np.round(np.asarray(image) / 257).astype(np.uint8)  # 65535 becomes 255
            pixels = np.stack([grey] * 3, axis=2)
        elif image.mode in ("I", "F", "LAB", "HSV"):
            raise UserError(f"{file} has pixels of PIL's mode {image.mode}: save it as 8-bit RGB")
        else:
            pixels = np.asarray(image.convert("RGB"))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # PIL raises many kinds for damaged files
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{file} is not an image that can be read ({reason})") from None
    if frames > 1:
        raise UserError(f"{file} holds {frames} images instead of one")
    return pixels


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


DATASETS: dict[str, Callable[[Path], tuple[ImageSet, ImageSet]]] = {
    **{name: partial(_torchvision, name) for name in ("CIFAR10", "CIFAR100", "SVHN")},
    "Digits": _digits,
    "ImageFolder": _image_folder,
}
