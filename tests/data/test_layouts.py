"""Every layout is recognised, named, and its labels are right; others are explained."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from strzoo.data.imagenet_classes import list_classes
from strzoo.data.layouts import find_samples
from strzoo.data.samples import Samples
from strzoo.errors import IntegrityError, StrzooError, UsageError
from tests.helpers.photographs import crop_photographs, jpeg

PICTURE = jpeg(crop_photographs(1)[0])
VAL = [f"ILSVRC2012_val_{n:08}.JPEG" for n in (1, 2, 3, 4, 5)]
# The first five of the validation set: their devkit numbers, wnids and network outputs, as
# torchvision, Kaggle and the devkit have them.
DEVKIT = (490, 361, 171, 822, 297)
WNIDS = ("n01751748", "n09193705", "n02105855", "n04263257", "n03125729")
OUTPUTS = [65, 970, 230, 809, 516]
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def write(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE)
    return folder


def labels(samples: Samples) -> list[int]:
    assert samples.labels.shape[1] == 1
    return samples.labels[:, 0].tolist()


def test_class_ids_and_names_are_the_1000_of_imagenet() -> None:
    from torchvision.models import ResNet50_Weights

    classes = list_classes()
    assert [c.name for c in classes] == ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    assert [c.wnid for c in classes] == sorted(c.wnid for c in classes)
    assert sorted(c.devkit_id for c in classes) == list(range(1, 1001))
    assert (classes[0].wnid, classes[999].wnid) == ("n01440764", "n15075141")


def test_class_folders_are_labelled_by_wnid_not_by_folder_order(tmp_path: Path) -> None:
    write(tmp_path, [f"{WNIDS[0]}/a.JPEG", f"{WNIDS[4]}/b.jpg", f"{WNIDS[4]}/deep/c.png"])
    write(tmp_path, [f"{WNIDS[4]}/.hidden.jpg", f"{WNIDS[4]}/._b.jpg"])
    (tmp_path / "README.txt").write_text("not an image")
    samples = find_samples(tmp_path, 1000)
    assert samples.layout == "class folders by wnid"
    assert dict(zip(samples.names, labels(samples), strict=True)) == {
        f"{WNIDS[0]}/a.JPEG": 65,
        f"{WNIDS[4]}/b.jpg": 516,
        f"{WNIDS[4]}/deep/c.png": 516,
    }
    assert samples.subset == (65, 516)
    assert samples.source.read(1) == PICTURE


def test_the_validation_folder_of_a_root_is_found(tmp_path: Path) -> None:
    write(tmp_path, ["train/n01440764/x.JPEG", f"val/{WNIDS[1]}/y.JPEG"])
    samples = find_samples(tmp_path, 1000)
    assert (list(samples.names), labels(samples)) == ([f"{WNIDS[1]}/y.JPEG"], [970])


def test_imagenetv2s_folders_are_numbers_not_text(tmp_path: Path) -> None:
    write(tmp_path, ["10/a.jpeg", "2/b.jpeg", "999/c.jpeg"])
    samples = find_samples(tmp_path, 1000)
    assert (samples.layout, labels(samples)) == ("numeric folders", [10, 2, 999])


def test_folders_of_the_models_own_classes_are_in_name_order(tmp_path: Path) -> None:
    write(tmp_path, ["zebra/1.png", "ape/1.png", "lion/1.png"])
    samples = find_samples(tmp_path, 3)
    assert samples.layout == "folders of the model's own classes"
    assert (samples.class_names, labels(samples)) == (("ape", "lion", "zebra"), [0, 1, 2])
    # Ten wnid folders and a network of ten classes: its own, as in an Imagenette network.
    imagenette = write(tmp_path / "ten", [f"{c.wnid}/1.png" for c in list_classes()[90:100]])
    assert labels(find_samples(imagenette, 10)) == list(range(10))
    assert labels(find_samples(imagenette, 1000)) == list(range(90, 100))


def test_folders_with_the_names_of_the_outputs_are_these_classes_whichever_are_there(
    tmp_path: Path,
) -> None:
    names = ("ape", "lion", "zebra")
    for present, expected in (("lion", [1]), ("ape zebra", [0, 2]), ("ape lion zebra", [0, 1, 2])):
        folder = write(tmp_path / present, [f"{name}/1.png" for name in present.split()])
        samples = find_samples(folder, 3, class_names=names)
        assert (samples.class_names, labels(samples)) == (names, expected)
        assert samples.subset == (None if len(expected) == 3 else tuple(expected))
        missing = [name for name in names if name not in present]
        assert [note.partition("classes: ")[2] for note in samples.notes] == (
            [", ".join(missing)] if missing else []
        )
    # Another order than that of the text, and numbers that are names, not outputs.
    both = tmp_path / "ape zebra"
    assert labels(find_samples(both, 3, class_names=("zebra", "lion", "ape"))) == [2, 0]
    numbers = write(tmp_path / "numbers", ["1/1.png", "2/1.png"])
    assert labels(find_samples(numbers, 3, class_names=("1", "2", "3"))) == [0, 1]
    # Names that say nothing of the folders leave the order as it is.
    assert labels(find_samples(tmp_path / "ape lion zebra", 3, class_names=("x", "y", "z"))) == [
        0, 1, 2,
    ]  # fmt: skip
    write(both, ["horse/1.png"])
    with pytest.raises(
        UsageError, match=r"horse is none of the model's 4 classes \(ape, cat, lion"
    ):
        find_samples(both, 4, class_names=("ape", "cat", "lion", "zebra"))


def _devkit_archive(path: Path) -> None:
    content = "".join(f"{n}\n" for n in DEVKIT).encode()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{GROUND_TRUTH}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("where", "text", "named"),
    [
        (GROUND_TRUTH, "\n".join(map(str, DEVKIT)), "the devkit's ground truth"),
        (
            f"ILSVRC2012_devkit_t12/data/{GROUND_TRUTH}",
            "\n".join(map(str, DEVKIT)),
            "the devkit's ground truth",
        ),
        ("ILSVRC2012_devkit_t12.tar.gz", None, "the devkit's ground truth"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n"
            + "\n".join(
                f"{n[:-5]},{w} 1 2 3 4 {w} 5 6 7 8"
                for n, w in reversed(list(zip(VAL, WNIDS, strict=True)))
            ),
            "Kaggle's LOC_val_solution.csv",
        ),
        ("wnids.txt", "\n".join(WNIDS), "a wnid text file"),
        (
            "val.txt",
            "\n".join(f"{n} {w}" for n, w in zip(VAL, WNIDS, strict=True)),
            "a wnid text file",
        ),
        (
            "val.txt",
            "\n".join(f"{n} {i}" for n, i in zip(VAL, OUTPUTS, strict=True)),
            "a wnid text file",
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_a_flat_folder_and_the_official_tar_take_labels_of_every_kind(
    where: str, text: str | None, named: str, packed: bool, tmp_path: Path
) -> None:
    folder = write(tmp_path / "val", VAL)
    if text is None:
        _devkit_archive(tmp_path / where)
    else:
        (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / where).write_text(text + "\n")
    data = tmp_path
    if packed:
        with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as archive:
            for name in reversed(VAL):
                archive.add(folder / name, name)
        for name in VAL:
            (folder / name).unlink()
        folder.rmdir()
    for argument in (data, tmp_path / "ILSVRC2012_img_val.tar" if packed else folder):
        samples = find_samples(argument, 1000)
        assert named in samples.layout
        assert ("tar archive" in samples.layout) == packed
        assert (list(samples.names), labels(samples)) == (VAL, OUTPUTS)
        assert samples.source.read(3) == PICTURE
        assert samples.subset is None


def test_labels_belong_to_images_by_number_even_if_some_are_missing(tmp_path: Path) -> None:
    write(tmp_path, [VAL[4], VAL[1]])
    (tmp_path / GROUND_TRUTH).write_text("\n".join(map(str, DEVKIT)))
    assert labels(find_samples(tmp_path, 1000)) == [970, 516]


def test_real_labels_accept_several_classes_and_leave_out_images_without(tmp_path: Path) -> None:
    write(tmp_path / "val", VAL)
    real = tmp_path / "real.json"
    real.write_text(json.dumps([[1, 2], [], [3], [], [4, 5, 6]]))
    for samples in (
        find_samples(tmp_path / "val", 1000),
        find_samples(tmp_path / "val", 1000, real=real),
    ):
        assert "ReaL labels" in samples.layout
        assert samples.labels.tolist() == [[1, 2, -1], [3, -1, -1], [4, 5, 6]]
        assert list(samples.names) == [VAL[0], VAL[2], VAL[4]]
        assert samples.notes == ("2 images have no ReaL label and are left out",)


def _write_cifar(folder: Path, kind: str, classes: int) -> tuple[Path, np.ndarray, list[int]]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    truth = [3, 0, classes - 1, 7]
    names = [f"c{i}" for i in range(classes)]
    folder.mkdir()
    if kind == "python":
        key = "labels" if classes == 10 else "fine_labels"
        test, meta = ("test_batch", "batches.meta") if classes == 10 else ("test", "meta")
        document = {b"data": pixels.reshape(4, -1), key.encode(): truth}
        (folder / test).write_bytes(pickle.dumps(document, protocol=2))
        field = "label_names" if classes == 10 else "fine_label_names"
        encoded = {field.encode(): [n.encode() for n in names]}
        (folder / meta).write_bytes(pickle.dumps(encoded, protocol=2))
    else:
        coarse = [] if classes == 10 else [9]
        rows = [bytes([*coarse, t]) + p.tobytes() for t, p in zip(truth, pixels, strict=True)]
        test, meta = (
            ("test_batch.bin", "batches.meta.txt")
            if classes == 10
            else ("test.bin", "fine_label_names.txt")
        )
        (folder / test).write_bytes(b"".join(rows))
        (folder / meta).write_text("\n".join(names) + "\n")
    return folder, pixels, truth


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar_is_read_in_both_versions_packed_or_not(
    kind: str, classes: int, tmp_path: Path
) -> None:
    inner = {"python10": "cifar-10-batches-py", "binary10": "cifar-10-batches-bin"}.get(
        f"{kind}{classes}", f"cifar-100-{kind}"
    )
    folder, pixels, truth = _write_cifar(tmp_path / inner, kind, classes)
    packed = tmp_path / f"cifar-{classes}-{kind}.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(folder, inner)
    for data in (folder, tmp_path, packed):
        samples = find_samples(data, classes)
        assert samples.layout == f"CIFAR-{classes} ({kind} version), test set"
        assert labels(samples) == truth
        assert samples.class_names[2] == "c2"
        image = samples.source.read(1)
        assert isinstance(image, np.ndarray)
        np.testing.assert_array_equal(image, pixels[1].transpose(1, 2, 0))


def test_cifar_on_a_network_of_more_classes_is_refused(tmp_path: Path) -> None:
    folder, _, _ = _write_cifar(tmp_path / "cifar-10-batches-py", "python", 10)
    with pytest.raises(UsageError, match="has 10 classes, the model has 1000"):
        find_samples(folder, 1000)


def test_a_cifar_pickle_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    folder, _, _ = _write_cifar(tmp_path / "cifar-10-batches-py", "python", 10)
    (folder / "test_batch").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(IntegrityError, match=r"its pickle wants os\.system, which is refused"):
        find_samples(folder, 10)


def test_parquet_shards_of_the_validation_split_are_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def shard(name: str, truth: list[int]) -> None:
        rows = [{"bytes": PICTURE + bytes([t % 256]), "path": None} for t in truth]
        table = pyarrow.table({"image": rows, "label": truth})
        parquet.write_table(table, tmp_path / "data" / name, row_group_size=2)

    (tmp_path / "data").mkdir()
    shard("train-00000-of-00001.parquet", [1])
    shard("validation-00000-of-00002.parquet", [7, 5, 999])
    shard("validation-00001-of-00002.parquet", [3])
    samples = find_samples(tmp_path, 1000)
    assert samples.layout == "Hugging Face parquet (2 shards, validation)"
    assert labels(samples) == [7, 5, 999, 3]
    read = [samples.source.read(i) for i in (3, 0, 2, 1)]
    assert read == [PICTURE + bytes([t % 256]) for t in (3, 7, 999, 5)]
    shard("validation-00000-of-00002.parquet", [-1])
    with pytest.raises(IntegrityError, match="a test split has no labels"):
        find_samples(tmp_path, 1000)


@pytest.mark.parametrize(
    ("names", "classes", "error", "named"),
    [
        ([], 1000, UsageError, "an empty folder"),
        (["a.jpg", "b.jpg"], 1000, UsageError, r"found 2 images \(a.jpg, b.jpg\) without labels"),
        (["cat/a.jpg", "dog/b.jpg"], 1000, UsageError, r"2 class folders \(cat, dog\)"),
        (["n01440764/a.jpg", "n00000001/b.jpg"], 1000, UsageError, "n00000001"),
        (["0/a.jpg", "11/a.jpg"], 10, UsageError, "the model has 10 classes"),
    ],
)
def test_an_unrecognised_layout_is_explained(
    names: list[str], classes: int, error: type[StrzooError], named: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=named):
        find_samples(write(tmp_path / "data", names) if names else tmp_path, classes)


def test_imagenet_labels_on_a_model_of_another_size_are_refused(tmp_path: Path) -> None:
    write(tmp_path, VAL)
    (tmp_path / "wnids.txt").write_text("\n".join(WNIDS))
    with pytest.raises(UsageError, match="has ImageNet labels, but the model has 10 classes"):
        find_samples(tmp_path, 10)


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("wnids.txt", "n01440764\nn99999999", "line 2: 'n99999999' is not one of the 1000"),
        ("LOC_val_solution.csv", "a,b\n1,2", "expected the columns ImageId"),
        (GROUND_TRUTH, "490\n1001", "line 2: 1001 is not a devkit class"),
        ("real.json", '{"a": 1}', "is not a ReaL file"),
    ],
)
def test_a_bad_label_file_names_the_line(name: str, text: str, named: str, tmp_path: Path) -> None:
    write(tmp_path, VAL[:2])
    (tmp_path / name).write_text(text)
    with pytest.raises(IntegrityError, match=named):
        find_samples(tmp_path, 1000)


def test_a_compressed_or_damaged_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "val.tar"
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(IntegrityError, match="unpack it"):
        find_samples(path, 1000)
