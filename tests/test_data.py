"""What images a run sees: splits, order, corruption, augmentation, and a folder of images."""

import os
import shutil

import numpy as np
import pytest
import torch
from conftest import load_images
from PIL import Image
from sklearn.datasets import load_digits

import data
import options
from utils import UserError


@pytest.fixture(scope="module")
def digits():
    return load_images("Digits", use_test=True)


def test_digits_are_normalised_enlarged_linearly_and_rounded(digits):
    """Each new pixel lies between the centres of four old ones, at the edge between two."""
    at = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)  # in old pixels
    weights = np.maximum(1 - np.abs(at[:, None] - np.arange(8)), 0)  # (32, 8)
    expected = 255 / 16 * np.einsum("ia,nab,jb->nij", weights, load_digits().images, weights)
    found = torch.cat([part.images for part in digits]).numpy()
    assert np.abs(found - expected[..., None]).max() < 0.501
    assert np.array_equal(torch.cat([part.labels for part in digits]), load_digits().target)
    x = torch.cat([x for x, _ in digits[0].batches(500)])
    assert abs(x.mean()) < 1e-2 and abs(x.std() - 1) < 1e-2


def test_batches_have_the_layout_asked_for(digits):
    for layout in (torch.contiguous_format, torch.channels_last):
        images = digits[1].to(torch.device("cpu"), layout)
        assert all(x.is_contiguous(memory_format=layout) for x, _ in images.batches(16))


def test_which_images_are_kept_and_held_out(digits, capsys):
    """As in official lines, the size of the whole set stands for all that are not held out."""
    for how in ({}, {"use_data_size": 1500}):
        train, held_out = load_images("Digits", **how)
        assert (len(train), len(held_out)) == (1350, 150) and len(digits[0]) == 1500
        assert torch.equal(torch.cat([train.images, held_out.images]), digits[0].images)
    assert capsys.readouterr().out.count("note:") == 1
    train, test = load_images("Digits", use_test=True, use_data_size=100, use_test_size=20)
    assert torch.equal(train.images, digits[0].images[:100])
    assert torch.equal(test.images, digits[1].images[:20])
    for use_test, wrong, message in [
        (False, {"use_data_size": 1351}, "1351 is more than the 1350"),
        (False, {"use_data_size": 1501}, "1501 is more than the 1350"),
        (True, {"use_data_size": 1501}, "1501 is more than the 1500"),
        (True, {"use_test_size": 298}, "298 is more than the 297"),
        (True, {"use_data_size": 1}, "1 training image of Digits of fewer than two"),
        (True, {"use_data_size": 2, "split_classes": 1}, "0 training images"),
        (True, {"use_test_size": 1, "split_classes": 1}, "no images of Digits to evaluate on"),
    ]:
        with pytest.raises(UserError, match=message):
            load_images("Digits", use_test=use_test, **wrong)


class OfFullSize:
    """Stands for torchvision's CIFAR-10, but has 60,000 and 10,000 images, which are black."""

    base_folder, filename = "cifar-10-batches-py", "cifar-10-python.tar.gz"

    def __init__(self, root, train, download):
        self.places.append(root)
        count = 60_000 if train else 10_000
        self.data = np.zeros((count, 32, 32, 3), np.uint8)
        self.targets, self.classes = [i % 10 for i in range(count)], list(range(10))
        self.targets[-5000:] = [9] * 5000


@pytest.fixture
def cifar(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", OfFullSize)
    OfFullSize.places = []  # in which it is looked for
    return OfFullSize


@pytest.mark.parametrize("folder, use_test, size, sizes", [
    ("", True, 60_000, [60_000, 10_000]), ("cifar10", False, None, [55_000, 5_000]),
    ("CIFAR10", False, 20_000, [20_000, 5_000]), (None, True, None, [60_000, 10_000]),
])  # fmt: skip
def test_cifar_lies_where_the_official_code_keeps_it_and_five_thousand_are_held_out(
    tmp_path, cifar, folder, use_test, size, sizes
):
    if folder is not None:  # else it is downloaded to the folder that is given
        (tmp_path / folder / cifar.base_folder).mkdir(parents=True)
    train, test = load_images("CIFAR10", tmp_path, use_test=use_test, use_data_size=size)
    assert cifar.places == [str(tmp_path / (folder or ""))] * 2
    assert [len(train), len(test)] == sizes
    assert train.labels[:20].tolist() == [*range(10)] * 2
    assert (test.labels[-5000:] == 9).all()
    black = torch.tensor([-0.4914 / 0.2023, -0.4822 / 0.1994, -0.4465 / 0.2010])
    x, _ = next(train.batches(2))
    assert torch.allclose(x, black.view(1, 3, 1, 1).expand_as(x), atol=1e-6)


def test_missing_cifar_names_the_alternatives(tmp_path, cifar, monkeypatch):
    def no_network(*args, **kwargs):
        raise RuntimeError("no network")

    monkeypatch.setattr(cifar, "__init__", no_network)
    with pytest.raises(UserError, match=r"Digits.*ImageFolder"):
        load_images("CIFAR10", tmp_path)
    assert data.DATASETS.keys() == set(options.DATASET_NAMES)


# --- a folder of images ---


@pytest.fixture
def folder(tmp_path):
    """20 images of 2 classes: red and blue squares with a shade of their own."""
    for split, count in (("train", 20), ("test", 4)):
        for i in range(count):
            name = ("blue", "red")[i % 2]
            (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
            colour = (100 + 5 * i, 0, 0) if name == "red" else (0, 0, 100 + 5 * i)
            Image.new("RGB", (32, 32), colour).save(tmp_path / split / name / f"{i:02}.png")
    return tmp_path


def images_of(folder):
    return load_images("ImageFolder", folder, use_test=True)[0].images


def test_image_folder(folder, tmp_path_factory):
    """Subfolders and links belong to their class, hidden files and stray ones to none."""
    for name in (".DS_Store", "red/.DS_Store", "notes.txt"):
        (folder / "train" / name).touch()
    below, elsewhere = folder / "train/red/more/still", tmp_path_factory.mktemp("elsewhere")
    below.mkdir(parents=True)
    for place in (below, elsewhere):
        Image.new("RGB", (32, 32), (255, 0, 0)).save(place / "x.png")
    (folder / "train/red/linked").symlink_to(elsewhere)
    train, test = load_images("ImageFolder", folder, use_test=True)
    assert (len(train), len(test), train.num_classes) == (22, 4, 2)
    assert (train.images[:, 0, 0, 0] > 0).equal(train.labels == 1)
    assert 0 < train.labels[:10].sum() < 10  # the first half is a mixture, not one class
    shutil.rmtree(folder / "test")
    assert [len(part) for part in load_images("ImageFolder", folder)] == [20, 2]
    with pytest.raises(UserError, match=r"no folder .*test, which is needed for --use_test"):
        images_of(folder)


def test_the_cache_is_used_until_a_file_changes_or_it_is_damaged(folder, monkeypatch, capsys):
    """Images that cannot be cached are read all the same."""
    path = folder / "train" / "red" / "21.bmp"
    for colour in ((0, 0, 0), (7, 200, 7)):  # of the same size in bytes
        Image.new("RGB", (32, 32), colour).save(path)
        os.utime(path, (colour[0], colour[0]))
        images = images_of(folder)
        assert (images == torch.tensor(colour)).all(dim=3).all(dim=2).all(dim=1).sum() == 1
    caches = [*folder.glob(".*.npy")]
    assert len(caches) == 2  # of train and test: the old one is gone
    with monkeypatch.context() as patch:
        patch.setattr(data, "_decode", lambda file: pytest.fail("decoded again"))
        assert torch.equal(images_of(folder), images)
    for damage in (
        lambda file: file.write_bytes(b"damaged"),
        lambda file: file.write_bytes(file.read_bytes()[:40]),
        lambda file: file.write_bytes(b"PK\x03\x04"),
        lambda file: np.save(file, np.load(file)[..., :1]),
        lambda file: np.save(file, np.load(file) / 255),
    ):
        for cache in caches:
            damage(cache)
        assert torch.equal(images_of(folder), images)

    def full(path, content):
        raise OSError(28, "No space left", path)

    monkeypatch.setattr(data, "write_atomically", full)
    for cache in caches:
        cache.unlink()
    assert torch.equal(images_of(folder), images)
    assert capsys.readouterr().out.count("are not cached") == 2


# --- what a file shows ---

RED, SHADES = (200, 30, 10), np.arange(1024, dtype=np.uint16).reshape(32, 32)
CORNER = np.kron([[255, 0], [0, 0]], np.ones((16, 16))).astype(np.uint8)
PALETTE = Image.new("RGB", (32, 32), RED).convert("P", palette=Image.Palette.ADAPTIVE)
TURNED = Image.fromarray(CORNER)
TURNED.getexif()[0x0112] = 6  # to be shown turned by 90 degrees, clockwise


@pytest.mark.parametrize("name, image, expected", [
    ("16 bits.png", Image.fromarray(SHADES * 64), np.round(SHADES * 64 / 257)),
    ("16 bits.tif", Image.fromarray(SHADES * 64), np.round(SHADES * 64 / 257)),
    ("grey.png", Image.new("L", (32, 32), 90), 90),
    ("two.png", Image.new("1", (32, 32), 1), 255),
    ("palette.png", PALETTE, RED),
    ("opaque.png", Image.new("RGBA", (32, 32), (*RED, 255)), RED),
    ("CMYK.JPG", Image.new("CMYK", (32, 32), (0, 128, 255, 51)), (204, 102, 0)),
    ("turned.jpg", TURNED, np.rot90(CORNER, -1)),
])  # fmt: skip
def test_pixels_are_those_that_a_viewer_shows(folder, name, image, expected):
    image.save(folder / "train" / "red" / name, exif=image.getexif())
    images = images_of(folder).int()
    expected = np.atleast_3d(expected) if np.ndim(expected) == 2 else np.asarray(expected)
    off = np.abs(images.numpy() - expected).max((1, 2, 3))
    assert len(images) == 21 and off.min() <= (3 if name.lower().endswith("jpg") else 0)


def put(image, name, **save):
    """A change of the folder: one more file among its red images."""
    return lambda folder: image.save(folder / "train" / "red" / name, **save)


FILM = {"save_all": True, "append_images": [Image.new("L", (32, 32), 9)]}


@pytest.mark.parametrize("damage, message", [
    (put(Image.new("RGB", (28, 28)), "01.png"), "01.png.* 28x28"),
    (lambda f: (f / "train/red/01.png").write_bytes(b"no image"), "01.png is not an image"),
    (lambda f: os.truncate(f / "train/red/01.png", 70), "01.png is not an image"),
    (lambda f: (f / "train/red/x.JPG").symlink_to("nowhere"), "x.JPG is not an image"),
    (lambda f: (f / "train/red/again").symlink_to(f / "train"), "again is not an image"),
    (lambda f: Image.new("RGB", (32, 32)).save(f / "train/odd.PNG"), "odd.PNG is in no class"),
    (lambda f: (f / "train/green").symlink_to("nowhere"), "green is a broken link"),
    (lambda f: (f / "test/red").rename(f / "test/green"), "green, red"),
    (lambda f: [(f / part / "green").mkdir() for part in ("train", "test")], "no images in.*green"),
    (lambda f: [Image.new("RGB", (8, 9)).save(p) for p in f.glob("test/*/*")], "of test/ 8x9"),
    (lambda f: (f / "train").rename(f / "tarin"), "no folder .*train"),
    (lambda f: [shutil.rmtree(f / part / "red") for part in ("train", "test")], "nothing to learn"),
    (lambda f: [p.unlink() for p in f.glob("train/*/*")], "no images in"),
    # Files without definite colours of 8 bits
    (put(Image.new("RGBA", (32, 32), (*RED, 0)), "alpha.png"), "alpha.png has transparent"),
    (put(PALETTE, "palette.png", transparency=0), "palette.png has transparent"),
    (put(Image.new("RGB", (32, 32), RED), "key.png", transparency=RED), "key.png has transparent"),
    (put(Image.fromarray(SHADES), "deep.png", transparency=7), "deep.png has a transparent shade"),
    (put(Image.new("L", (32, 32)), "film.gif", **FILM), "film.gif holds 2 images"),
    (put(Image.new("F", (32, 32), 0.5), "float.tif"), "float.tif has pixels of PIL's mode F"),
    (put(Image.new("I", (32, 32), 70_000), "wide.tif"), "wide.tif has pixels of PIL's mode I"),
])  # fmt: skip
def test_mistakes_in_a_folder_of_images_are_named(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_images("ImageFolder", folder)
