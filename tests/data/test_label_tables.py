"""The class of each image from tables as people write them, and from folders as they name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from strzoo.data.layouts import find_samples
from strzoo.errors import IntegrityError, UsageError
from tests.data.test_layouts import labels, write

NAMES = ["a b.jpg", "b.jpg", "c.d.png", "e.JPEG"]
TRUTH = [2, 0, 1, 2]
WORDS = ["oak", "ash", "elm", "oak"]  # in the order of their names: ash, elm, oak
ROWS = list(zip(NAMES, TRUTH, strict=True))
TABLES = {
    "l.csv": "filename,label\n" + "".join(f"{n},{t}\n" for n, t in reversed(ROWS)),
    "swapped.csv": "label,path\n" + "".join(f"{t},val/{n}\n" for n, t in ROWS),
    "semicolons.csv": "image;class_id;split\n" + "".join(f"{n};{t};1\n" for n, t in ROWS),
    "l.tsv": "".join(f"{n}\t{t}\n" for n, t in ROWS),
    "pandas.csv": ",image,target\n" + "".join(f"{i},{n},{t}.0\n" for i, (n, t) in enumerate(ROWS)),
    "stems.csv": "id,y\n" + "".join(f'"{n.rpartition(".")[0]}","{t}"\n' for n, t in ROWS),
    "unnamed.csv": "# by hand\nfile,tree\n" + "".join(f".\\x\\{n},{t}\n" for n, t in ROWS),
    "onehot.csv": "image,ash,elm,oak\n"
    + "".join(f"{n},{','.join(str(float(t == k)) for k in range(3))}\n" for n, t in ROWS),
    "words.csv": "file_name,label\n"
    + "".join(f"{n},{w}\n" for n, w in zip(NAMES, WORDS, strict=True)),
    "metadata.jsonl": "".join(json.dumps({"file_name": n, "label": t}) + "\n" for n, t in ROWS),
    "l.json": json.dumps(dict(ROWS)),
    "list.json": json.dumps([{"image": n, "size": [1, 2], "label": t} for n, t in ROWS]),
    "l.txt": "".join(f"{n}\t{t}\n" for n, t in ROWS),
    "one_a_line.txt": "".join(f"{t}\n" for t in TRUTH),
    "floats_a_line.txt": "".join(f"{t}.0\n" for t in TRUTH),
    "commas.txt": "".join(f"{n},{t}\n" for n, t in ROWS[1:]) + f'"{NAMES[0]}",{TRUTH[0]}\n',
    "quoted.csv": "filename,note,label\n"
    + "".join(f'{n},"two\nlines\u2028of it",{t}\n' for n, t in ROWS) + ",,\n",
    "floats.txt": "".join(f"{n}\t{t}.0\n" for n, t in ROWS),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_labels_are_read_from_tables_whatever_their_columns(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "images", NAMES)
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8-sig")
    samples = find_samples(folder, 3, labels=tmp_path / name)
    assert (list(samples.names), labels(samples)) == (NAMES, TRUTH)
    assert bool(samples.class_names) == (name in ("words.csv", "onehot.csv"))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("begin", ["", "img_"])
def test_lines_belong_to_images_by_their_numbers(tmp_path: Path, begin: str, first: int) -> None:
    """Also where the order of the names as texts is another: 10 comes before 2."""
    truth = [(7 * n) % 5 for n in range(12)]
    folder = write(tmp_path, [f"{begin}{n + first}.png" for n in range(12)])
    (tmp_path / "labels.txt").write_text("".join(f"{t}\n" for t in truth))
    samples = find_samples(folder, 5)
    numbers = [int(name.removeprefix(begin).partition(".")[0]) for name in samples.names]
    assert labels(samples) == [truth[number - first] for number in numbers]


@pytest.mark.parametrize(
    ("names", "text", "said"),
    [
        (["a2.png", "a10.png", "b1.png"], "0\n1\n2\n", "'a10.png' comes before 'a2.png' is not"),
        (["a.png", "b.png", "c.png"], "0\n-1\n1\n", "label '-1': a class is a whole number"),
        (["a.png", "b.png", "c.png"], "a.png +1\nb.png 0\nc.png 2\n", r"label '\+1': a class is"),
        (["a.png", "b.png", "c.png"], "a.png,0.5\nb.png,1\nc.png,2\n", "label '0.5': a class is"),
    ],
)
def test_what_could_mean_another_image_or_class_is_refused(
    tmp_path: Path, names: list[str], text: str, said: str
) -> None:
    folder = write(tmp_path, names)
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(UsageError, match=said):
        find_samples(folder, 3)


def test_a_table_beside_the_images_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path, NAMES)
    (tmp_path / "metadata.jsonl").write_text(TABLES["metadata.jsonl"])
    assert labels(find_samples(folder, 3)) == TRUTH


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,label\nother.jpg,1\n", "names of the images that are there"),
        ("image,label\nb.jpg,1\nb.jpg,2\n", r"lines 2 and 3: 'b' has several labels"),
        ("image,label\nb.jpg,3\n", "line 2: class 3 is not below 3"),
        ("image,label\nb.jpg,\n", r"names 1 classes|'nothing' is not one of"),
        ("image,age,name\nb.jpg,1,2\n", "which column is the label"),
        ("image,label\nb.jpg,oak\n", "names 1 classes .* the model has 3"),
        ("image,label\nb.jpg,n01440764\n", "ImageNet labels, but the model has 3"),
    ],
)
def test_tables_that_say_nothing_plain_are_refused(text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, ["b.jpg"])
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises((IntegrityError, UsageError), match=said):
        find_samples(tmp_path, 3)


def test_images_of_one_name_in_several_folders_are_told_by_their_folders(tmp_path: Path) -> None:
    write(tmp_path / "images", ["north/1.png", "south/1.png"])
    for name, text in (
        ("l.txt", "south/1.png 0\nnorth/1.png 1\n"),
        ("l.csv", "path,label\nimages/south/1.png,0\nimages/north/1.png,1\n"),
    ):
        (tmp_path / name).write_text(text)
        assert labels(find_samples(tmp_path / "images", 2, labels=tmp_path / name)) == [1, 0]
    (tmp_path / "l.txt").write_text("1.png 0\n1.png 1\n")
    with pytest.raises(IntegrityError, match="has several labels"):
        find_samples(tmp_path / "images", 2, labels=tmp_path / "l.txt")


def test_a_class_without_images_is_a_class(tmp_path: Path) -> None:
    data = write(tmp_path, ["ash/1.png", "oak/1.png"])
    with pytest.raises(UsageError, match=r"has 2 class folders .* the model has 3"):
        find_samples(data, 3)
    (data / "elm").mkdir()
    samples = find_samples(data, 3)
    assert (labels(samples), samples.subset) == ([0, 2], (0, 2))


def test_an_order_on_which_libraries_disagree_is_said(tmp_path: Path) -> None:
    samples = find_samples(write(tmp_path, [f"c{i}/1.png" for i in range(11)]), 11)
    assert labels(samples) == list(range(11))
    assert "c10 before c2, as torchvision has it; timm sorts them by number" in samples.notes[0]
    plain = find_samples(write(tmp_path / "p", [f"c{i:02}/1.png" for i in range(11)]), 11)
    assert plain.notes == ()
