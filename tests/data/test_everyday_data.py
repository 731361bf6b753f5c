"""Data as people have it: split names, numeric folders, published layouts, junk, odd text files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from strzoo.data.imagenet_classes import list_classes
from strzoo.data.layouts import find_samples
from strzoo.data.splits import find_split
from strzoo.data.training_images import find_training_samples
from strzoo.errors import IntegrityError, UsageError
from tests.data.test_layouts import DEVKIT, GROUND_TRUTH, OUTPUTS, VAL, WNIDS, labels, write

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def shard(
    path: Path,
    truth: Sequence[Any],
    image: str = "image",
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """A parquet file whose images are the bytes of their label's text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": str(t).encode(), "path": None} for t in truth]
    table = pyarrow.table({image: rows, **({"label": truth} if columns is None else columns)})
    parquet.write_table(table, path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001-1359597a978bc4fa.parquet", "train"),
        ("data/valid-00000-of-00001-70d52db3c749a935.parquet", "validation"),
        ("default/partial-train/0000.parquet", "train"),
        ("val2017.parquet", "validation"),
        ("imagenet1k-validation-00.tar", "validation"),
        ("DEV_003.parquet", "validation"),
        ("plain_text/test-00000-of-00001.parquet", "test"),
        ("train_val.parquet", "train_val"),
        ("holdout-00000-of-00002.parquet", "holdout"),
        ("latest-0001.parquet", "latest"),
        ("part-0003.parquet", ""),
        ("data-00000-of-00012.parquet", ""),
    ],
)
def test_the_split_of_a_shard_is_told_by_its_name(name: str, split: str) -> None:
    assert find_split(name) == split


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "test", "Valid"])
@pytest.mark.parametrize(
    "form", ["data/{}-00000-of-00001.parquet", "{}/0000.parquet", "plain_text/{}.parquet",
             "default/{}/0000.parquet", "x-{}-00.parquet"]
)  # fmt: skip
def test_training_shards_are_never_mixed_with_those_to_evaluate(
    name: str, form: str, tmp_path: Path
) -> None:
    shard(tmp_path / form.format(name), [1, 2])
    shard(tmp_path / form.format("train"), [3, 4, 5])
    samples = find_samples(tmp_path, 10)
    assert labels(samples) == [1, 2]
    assert ("test" if name == "test" else "validation") in samples.layout
    assert labels(find_samples(tmp_path, 10, split="train")) == [3, 4, 5]
    assert labels(find_samples(tmp_path, 10, split=name.lower())) == [1, 2]


@pytest.mark.parametrize("names", [["train"], ["train", "holdout"], ["holdout"], ["a", "b"]])
def test_splits_that_nobody_knows_ask_which_to_evaluate(names: list[str], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        shard(tmp_path / f"data/{name}-00000-of-00001.parquet", [number])
    with pytest.raises(UsageError, match=rf"of the splits {', '.join(sorted(names))}.*--split"):
        find_samples(tmp_path, 10)
    assert labels(find_samples(tmp_path, 10, split=names[-1])) == [len(names) - 1]
    with pytest.raises(UsageError, match="has no shards of the split 'test'; it has"):
        find_samples(tmp_path, 10, split="test")


def test_shards_whose_names_say_nothing_are_all_read_and_a_named_file_is_noted(
    tmp_path: Path,
) -> None:
    for number in range(2):
        shard(tmp_path / f"{number:04}.parquet", [number])
    assert labels(find_samples(tmp_path, 10)) == [0, 1]
    shard(tmp_path / "one/train-0.parquet", [3])
    (note,) = find_samples(tmp_path / "one/train-0.parquet", 10).notes
    assert "holds training images" in note


def test_several_configurations_ask_for_one(tmp_path: Path) -> None:
    for name in ("fine", "coarse"):
        shard(tmp_path / name / "test-0.parquet", [1])
    with pytest.raises(UsageError, match=r"several configurations \(coarse, fine\)"):
        find_samples(tmp_path, 10)
    assert labels(find_samples(tmp_path / "fine", 10)) == [1]


@pytest.mark.parametrize("image", ["image", "img", "images", "jpg"])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label", "cls"])
def test_columns_of_the_hub_are_known(image: str, label: str, tmp_path: Path) -> None:
    shard(tmp_path / "test.parquet", [4, 2], image, {label: [4, 2], "path": ["a", "b"]})
    samples = find_samples(tmp_path, 10)
    assert labels(samples) == [4, 2]
    assert [samples.source.read(i) for i in (1, 0)] == [b"2", b"4"]


def test_the_network_chooses_between_fine_and_coarse_labels(tmp_path: Path) -> None:
    columns = {"fine_label": [77, 3], "coarse_label": [19, 0]}
    shard(tmp_path / "test.parquet", [0, 1], "img", columns)
    assert labels(find_samples(tmp_path, 100)) == [77, 3]
    assert labels(find_samples(tmp_path, 20)) == [19, 0]


def test_labels_as_text_are_wnids_or_the_sorted_names_of_classes(tmp_path: Path) -> None:
    shard(tmp_path / "a/test.parquet", list(WNIDS))
    assert labels(find_samples(tmp_path / "a", 1000)) == OUTPUTS
    shard(tmp_path / "b/test.parquet", ["dog", "ape", "dog"])
    samples = find_samples(tmp_path / "b", 2)
    assert (labels(samples), samples.class_names) == ([1, 0, 1], ("ape", "dog"))
    shard(tmp_path / "c/test.parquet", [str(n) for n in range(11)])  # "10" is no third class
    assert labels(find_samples(tmp_path / "c", 11)) == list(range(11))


def test_other_columns_are_told_by_what_they_hold(tmp_path: Path) -> None:
    shard(tmp_path / "a/test.parquet", [4], "Picture", {"Label": [4], "path": ["a"]})
    assert labels(find_samples(tmp_path / "a", 10)) == [4]
    shard(tmp_path / "b/test.parquet", [1], "photo", {"species": [1], "age": [7]})
    table = parquet.read_table(tmp_path / "b/test.parquet")
    features = {"species": {"names": ["ape", "dog"], "_type": "ClassLabel"}}
    stated = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    parquet.write_table(table.replace_schema_metadata(stated), tmp_path / "b/test.parquet")
    samples = find_samples(tmp_path / "b", 2)
    assert (labels(samples), samples.class_names) == ([1], ("ape", "dog"))
    assert samples.source.read(0) == b"1"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"caption": ["x"]}, r"the columns caption, image; none is known to hold labels \(label"),
        ({"label": [None]}, "missing labels"),
        ({"label": [0.5]}, "others than class numbers"),
        ({"label": [[1, 2]]}, "others than class numbers"),
    ],
)
def test_other_columns_are_refused_by_name(
    columns: dict[str, Any], said: str, tmp_path: Path
) -> None:
    shard(tmp_path / "test.parquet", [1], "image", columns)
    with pytest.raises(IntegrityError, match=said):
        find_samples(tmp_path, 10)


# --- numeric folders: ILSVRC's development kit has kit fox (278) as 1 and so on


@pytest.mark.parametrize("form", ["{}", "{:04}"])
def test_numeric_folders_are_devkit_ids_or_outputs_and_never_text(
    form: str, tmp_path: Path
) -> None:
    devkit = {c.devkit_id: c.index for c in list_classes()}
    assert (devkit[1], devkit[2], devkit[3]) == (278, 212, 250)  # as published
    write(tmp_path / "ids", [f"{form.format(i)}/a.jpg" for i in range(1, 1001)])
    samples = find_samples(tmp_path / "ids", 1000)
    assert "development kit" in samples.layout
    assert labels(samples) == [devkit[int(name.split("/")[0])] for name in samples.names]
    write(tmp_path / "outputs", [f"{form.format(i)}/a.jpg" for i in range(1000)])
    samples = find_samples(tmp_path / "outputs", 1000)
    assert labels(samples) == [int(name.split("/")[0]) for name in samples.names]


@pytest.mark.parametrize(
    ("folders", "classes", "said"),
    [
        (["0", "1000"], 1000, "neither outputs from 0 on nor"),
        (["1", "1001"], 1000, "neither outputs from 0 on nor"),
        ([str(i) for i in range(1, 13)], 12, r"by number or as text .*Rename them with zeros"),
        (["1", "01"], 10, "the same number"),
        (["3", "20"], 10, "neither outputs"),
        (["1", "n01440764"], 1000, "cannot be matched"),
    ],
)
def test_numeric_folders_without_a_plain_order_are_refused(
    folders: list[str], classes: int, said: str, tmp_path: Path
) -> None:
    write(tmp_path, [f"{name}/a.jpg" for name in folders])
    with pytest.raises(UsageError, match=said):
        find_samples(tmp_path, classes)


def test_numbers_whose_order_is_plain_are_taken_and_doubt_is_noted(tmp_path: Path) -> None:
    write(tmp_path / "own", [f"{i:02}/a.jpg" for i in range(1, 13)])
    assert labels(find_samples(tmp_path / "own", 12)) == list(range(12))
    write(tmp_path / "from0", [f"{i}/a.jpg" for i in range(12)])
    samples = find_samples(tmp_path / "from0", 12)
    assert dict(zip(samples.names, labels(samples), strict=True))["10/a.jpg"] == 10
    assert samples.class_names[10] == "10"
    write(tmp_path / "some", ["5/a.jpg", "70/a.jpg"])
    (note,) = find_samples(tmp_path / "some", 1000).notes
    assert "not for the development kit's ids" in note


# --- Tiny ImageNet as published


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Four classes; wnids.txt is not sorted, as the published one is not."""
    root = tmp_path / "tiny-imagenet-200"
    for wnid in WNIDS[:4]:
        write(root / "train" / wnid, [f"images/{wnid}_{i}.JPEG" for i in range(2)])
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
    write(root / "val/images", [f"val_{i}.JPEG" for i in range(6)])
    write(root / "test/images", [f"test_{i}.JPEG" for i in range(4)])
    lines = [f"val_{i}.JPEG\t{WNIDS[i % 4]}\t0\t32\t44\t62\n" for i in range(6)]
    (root / "val/val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(WNIDS[:4]) + "\n")
    return root


def test_tiny_imagenet_is_labelled_by_its_own_classes(tiny: Path) -> None:
    order = sorted(WNIDS[:4])
    expected = [order.index(WNIDS[i % 4]) for i in range(6)]
    annotations = tiny / "val/val_annotations.txt"
    for data in (tiny, tiny / "val", tiny / "val/images"):
        for file in (None, annotations):
            samples = find_samples(data, 4, labels=file)
            assert labels(samples) == expected
            assert samples.class_names == tuple(order)
            assert not samples.imagenet
    assert find_training_samples(tiny, 4).class_names == tuple(order)
    with pytest.raises(UsageError, match="lists the classes of the set, not the labels"):
        find_samples(tiny / "test", 4)


def test_without_training_folders_the_list_of_classes_gives_the_order(tiny: Path) -> None:
    (tiny / "train").rename(tiny.parent / "elsewhere")
    order = sorted(WNIDS[:4])
    expected = [order.index(WNIDS[i % 4]) for i in range(6)]
    assert labels(find_samples(tiny, 4)) == expected
    with pytest.raises(UsageError, match="ImageNet labels, but the model has 5 classes"):
        find_samples(tiny, 5)


def test_a_root_with_training_images_alone_asks_for_the_split(tmp_path: Path) -> None:
    write(tmp_path, [f"train/{WNIDS[0]}/a.jpg", f"holdout/{WNIDS[1]}/a.jpg"])
    with pytest.raises(UsageError, match=r"folders: holdout, train.*--split"):
        find_samples(tmp_path, 1000)
    assert labels(find_samples(tmp_path, 1000, split="holdout")) == [OUTPUTS[1]]
    assert labels(find_samples(tmp_path, 1000, split="train")) == [OUTPUTS[0]]
    with pytest.raises(UsageError, match="no folder or shards of the split 'dev'"):
        find_samples(tmp_path, 1000, split="dev")
    # A class of vehicles may be called so; it holds images, not classes.
    write(tmp_path / "own", ["train/a.jpg", "plane/b.jpg"])
    assert find_samples(tmp_path / "own", 2).class_names == ("plane", "train")


# --- WebDataset


def webdataset(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, files in samples.items():
            for kind, content in files.items():
                member = tarfile.TarInfo(f"{key}.{kind}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_webdataset_shards_are_read_in_place(tmp_path: Path) -> None:
    webdataset(
        tmp_path / "imagenet-val-000000.tar",
        {
            "a/0001": {"jpg": b"one", "cls": b"7\n", "json": b'{"label": 9}'},
            "a/0002": {"json": b'{"label": 3}', "PNG": b"two"},
            "a/0003": {"input.jpg": b"in", "target.cls": b"4"},
            "a/0004": {"jpg": b"old", "index": b"6"},
            "._0003": {"jpg": b"junk", "cls": b"1"},
        },
    )
    webdataset(tmp_path / "imagenet-val-000001.tar", {"0": {"cls": b"5", "jpeg": b"three"}})
    webdataset(tmp_path / "imagenet-train-000000.tar", {"0": {"cls": b"5", "jpg": b"no"}})
    samples = find_samples(tmp_path, 10)
    assert labels(samples) == [7, 3, 4, 6, 5]
    read = [samples.source.read(i) for i in range(5)]
    assert read == [b"one", b"two", b"in", b"old", b"three"]
    assert "WebDataset (2 shards, validation)" in samples.layout
    assert labels(find_samples(tmp_path / "imagenet-train-000000.tar", 10)) == [5]


@pytest.mark.parametrize(
    "files",
    [
        {"jpg": b"x", "json": b"{}"},
        {"jpg": b"x", "json": b"[" * 100_000},
        {"jpg": b"x", "cls": "²".encode()},
        {"jpg": b"x", "cls": b"9" * 5000},
        {"jpg": b"x", "png": b"y", "cls": b"1"},
    ],
)
def test_samples_without_a_plain_label_are_named(files: dict[str, bytes], tmp_path: Path) -> None:
    webdataset(tmp_path / "val.tar", {"0001": files})
    with pytest.raises(IntegrityError, match=r"val\.tar.* sample 0001"):
        find_samples(tmp_path / "val.tar", 10)


# --- one lister, one reader of text


def test_junk_is_passed_over_everywhere(tmp_path: Path) -> None:
    from strzoo.data.calibration import load_samples
    from strzoo.data.preprocessing import SMALL

    kept = ["ape/1.jpg", "dog/1.jpg"]
    junk = [
        *("ape/._1.jpg", "__MACOSX/ape/._1.jpg", "__MACOSX/x.jpg", ".Trash/1.jpg"),
        *("ape/.ipynb_checkpoints/1.jpg", "ape/@eaDir/1.jpg", "$RECYCLE.BIN/1.jpg"),
    ]
    for root in (tmp_path / "train", tmp_path / "val"):
        write(root, [*kept, *junk])
        for name in (".DS_Store", "Thumbs.db", "ape/desktop.ini", "ape/Thumbs.db"):
            (root / name).write_bytes(b"\0\5\x16\7")
    assert list(find_samples(tmp_path, 2).names) == kept
    assert list(find_training_samples(tmp_path, 2).names) == kept
    assert len(load_samples(tmp_path / "val", (3, 32, 32), SMALL)) == 2


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    write(tmp_path / "store", ["0/a.jpg", "1/b.jpg"])
    data = tmp_path / "data"
    data.mkdir()
    for name in ("0", "1"):
        (data / f"class{name}").symlink_to(tmp_path / "store" / name)
    (tmp_path / "store/0/again").symlink_to(data)
    samples = find_samples(data, 2)
    assert list(samples.names) == ["class0/a.jpg", "class1/b.jpg"]
    assert any("links to folders around them" in note for note in samples.notes)
    # Each level doubles the paths: 2^20 of them.
    level = tmp_path / "bomb/0"
    for _ in range(20):
        level.mkdir(parents=True)
        (level / "b").symlink_to("a")
        level = level / "a"
    write(level, ["x.jpg"])
    with pytest.raises(IntegrityError, match="over and over"):
        find_samples(tmp_path / "bomb", 1)


@pytest.mark.parametrize(
    "encode",
    [lambda t: b"\xef\xbb\xbf" + t.encode(), lambda t: t.encode("utf-16"),
     lambda t: t.replace("\n", "\r\n").encode("utf-16")],
)  # fmt: skip
@pytest.mark.parametrize(
    ("file", "text"),
    [
        (GROUND_TRUTH, "\n".join(map(str, DEVKIT))),
        ("val.txt", "\n".join(f"{n} {w}" for n, w in zip(VAL, WNIDS, strict=True))),
        ("wnids.txt", "\n".join(WNIDS)),
        ("LOC_val_solution.csv", "ImageId,PredictionString\n" + "\n".join(
            f"{n[:-5]},{w} 1 2 3 4" for n, w in zip(VAL, WNIDS, strict=True))),
        ("real.json", json.dumps([[i] for i in OUTPUTS])),
    ],
)  # fmt: skip
def test_label_files_are_read_whatever_their_encoding(
    encode: Callable[[str], bytes], file: str, text: str, tmp_path: Path
) -> None:
    write(tmp_path, VAL)
    (tmp_path / file).write_bytes(encode(text))
    assert labels(find_samples(tmp_path, 1000)) == OUTPUTS


def test_names_with_spaces_are_told_by_tabs_or_by_the_images(tmp_path: Path) -> None:
    write(tmp_path, ["my cat.jpg", "dog.jpg"])
    for text in (f"my cat.jpg\t{WNIDS[0]}\ndog.jpg\t{WNIDS[1]}",
                 f"my cat.jpg {WNIDS[0]}\ndog.jpg {WNIDS[1]}"):  # fmt: skip
        (tmp_path / "val.txt").write_text(text)
        assert labels(find_samples(tmp_path, 1000)) == [OUTPUTS[1], OUTPUTS[0]]
