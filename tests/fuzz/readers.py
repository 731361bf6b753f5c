"""Coverage-guided fuzzing (atheris) of what reads foreign files, one reader at a time.

    pip install -e '.[fuzz]'
    python -m tests.fuzz.readers READER [--seconds 600] [--corpus FOLDER]

READER is checkpoints, safetensors, compact, plans, labels or recipes. Each input is read or refused
with an error of ours in one line. Any other exception, 20 seconds or 2 GB for one input end the
run with an exit code, and the input is kept in the file that is named.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.sealing import join_header, seal, split_header

SECONDS, MEGABYTES = 20, 2000  # for one input
INSTRUMENTED = ["strzoo", "yaml", "zipfile", "tarfile"]
Reader = Callable[[bytes, Path], None]


@dataclass(frozen=True)
class Harness:
    """What is done with an input, the inputs to begin with, words to put in, the longest input."""

    read: Reader
    seeds: tuple[bytes, ...]
    words: tuple[str, ...]
    longest: int = 1 << 19


def _read_checkpoint(content: bytes, path: Path) -> None:
    import strzoo

    path.write_bytes(content)
    strzoo.read_checkpoint(path).sparsity()


def _read_safetensors(content: bytes, path: Path) -> None:
    """The input is a header and, after a zero byte, the numbers; so the lengths always fit."""
    _read_checkpoint(join_header(content), path)


def _checkpoints(folder: Path) -> Harness:
    """Whole networks in each container, and a few tensors, most of whose bytes are structure."""
    import torch

    from tests.fuzz.checkpoints import make_seeds
    from tests.helpers.foreign import write_tar

    seeds = [v for k, v in make_seeds(folder).items() if not k.endswith(".safetensors")]
    state = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2, dtype=torch.half)}
    path = folder / "small"
    torch.save({"state_dict": state, "epoch": 3, "arch": "ResNet18"}, path)
    seeds.append(path.read_bytes())
    torch.save({"net": state}, path, _use_new_zipfile_serialization=False)
    seeds.append(path.read_bytes())
    write_tar(path, {"fc.weight": torch.ones(2, 3)})
    seeds.append(path.read_bytes())
    arrays = {key: value.numpy() for key, value in state.items()}
    seeds += [pickle.dumps({"model": arrays}, protocol) for protocol in (2, 4, 5)]
    words = ("torch._utils\\x0a_rebuild_tensor_v2", "collections\\x0aOrderedDict", "FloatStorage",
             "data.pkl", "byteorder", "state_dict", "storages", "tensors")  # fmt: skip
    return Harness(_read_checkpoint, tuple(seeds), words)


def _safetensors(folder: Path) -> Harness:
    return _safetensors_form(folder, compact=False)


def _compact(folder: Path) -> Harness:
    return _safetensors_form(folder, compact=True)


def _safetensors_form(folder: Path, *, compact: bool) -> Harness:
    """A whole network, and single tensors (which are refused once they have been read)."""
    import torch
    from safetensors.torch import save

    from strzoo.checkpoint.compact import encode
    from tests.fuzz.checkpoints import make_seeds

    name = "compact.safetensors" if compact else "plain.safetensors"
    seeds = [split_header(make_seeds(folder)[name])]
    state = {"fc.weight": torch.eye(16), "fc.bias": torch.ones(3, dtype=torch.half)}
    tensors, header = encode(state) if compact else (state, {"strzoo": "{}", "metadata": "{}"})
    seeds.append(split_header(save(tensors, header)))
    words = ("U8", "F16", "F32", "BF16", "BOOL", "I64", "shapes", "format", "strzoo-compact",
             "data_offsets", "shape", "dtype", "__metadata__", "metadata", "strzoo")  # fmt: skip
    return Harness(_read_safetensors, tuple(seeds), words)


def _plans(folder: Path) -> Harness:
    """The input is a header and, after a zero byte, the arrays; the lengths and the hash are always
    right."""
    from strzoo.engine.hardware import host_hardware
    from strzoo.engine.storage.kernels import KERNELS
    from strzoo.engine.storage.plan_files import read_plans
    from strzoo.sealed_files import CONTENT
    from tests.fuzz.plans import make_files

    hardware = host_hardware()

    def read(content: bytes, path: Path) -> None:
        path.write_bytes(seal(join_header(content)))
        read_plans(path, hardware)

    make_files(folder, {1: 1})
    seeds = tuple(split_header(p.read_bytes()[CONTENT:]) for p in sorted(folder.glob("*.strz")))
    words = ("plans", "kernels", "rows", "constants", "steps", "arena", "scratch", "input_shape",
             "layers", "chosen", "hardware", "fields", *KERNELS)  # fmt: skip
    return Harness(read, seeds, words)


def _labels(folder: Path) -> Harness:
    """The first byte of an input says what the file is called and how many images there are."""
    from strzoo.data.class_order import imagenet_order
    from strzoo.data.labels import read_class_names, read_label_file
    from strzoo.errors import StrzooError

    files = ("val.txt", "labels.txt", "LOC_val_solution.csv", "real.json",
             "ILSVRC2012_validation_ground_truth.txt", "devkit.tar.gz")  # fmt: skip
    names = [f"ILSVRC2012_val_{n:08}.JPEG" for n in range(1, 4)]
    order = imagenet_order()

    def read(content: bytes, path: Path) -> None:
        kind = content[0] if content else 0
        path = path.with_name(files[kind % len(files)])
        path.write_bytes(content[1:])
        images = names[: kind // len(files) % 4]
        try:
            found = read_label_file(path, images, order)
            for name in images:
                found.find(name)
        finally:
            try:
                read_class_names(path)
            except StrzooError as error:
                check_line(error)
            path.unlink()

    wnids = list(order.index)[:3]
    texts = (
        "".join(f"{name} {wnid}\n" for name, wnid in zip(names, wnids, strict=True)),
        "\n".join(wnids),
        f"ImageId,PredictionString\n{names[0][:-5]},{wnids[0]} 1 2 3 4\n",
        "[[1, 2], [], [999]]",
        "490\n361\n171\n",
    )
    seeds = [bytes([index + len(files) * 3]) + text.encode() for index, text in enumerate(texts)]
    seeds += [bytes([18 + 1]) + texts[0].encode("utf-16"), bytes([18 + 3]) + b'["cat", "dog"]']
    return Harness(read, (*seeds, bytes([18 + 5]) + _devkit(texts[-1])), tuple(wnids), 4096)


def _devkit(text: str) -> bytes:
    import io
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo("data/ILSVRC2012_validation_ground_truth.txt")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text.encode()))
    return stream.getvalue()


def _recipes(folder: Path) -> Harness:
    """A recipe of either kind of network; what is read is also planned, as --dry-run does."""
    import strzoo
    from strzoo.errors import StrzooError
    from strzoo.rnn import recipes as rnn_recipes
    from strzoo.rnn.parsing import KEYS as RNN_KEYS
    from strzoo.rnn.parsing import dump_config as dump_rnn
    from strzoo.training.parsing import KEYS, dump_config
    from strzoo.training.recipes import load_recipe

    def read(content: bytes, path: Path) -> None:
        path = path.with_suffix(".yaml")
        path.write_bytes(content)
        try:
            dump_rnn(rnn_recipes.load_recipe(str(path)))
        except StrzooError as error:
            check_line(error)
        rnn_recipes.has_recipe(str(path))
        dump_config(load_recipe(path))

    shipped = [dump_config(load_recipe(name)) for name in strzoo.list_recipes()[::12]]
    seeds = [
        *shipped,
        dump_rnn(rnn_recipes.load_recipe("digits")),
        "extends: digits_str\nlr: 1e-2\n",
        "a: &a [1, 2]\nb: *a\n<<: {c: 1}\n",
        "epochs: 0x1F\nlearning_rate: .inf\nseed: 2001-01-01\n",
    ]
    return Harness(
        read,
        tuple(text.encode() for text in seeds),
        (*KEYS, *RNN_KEYS, "extends", "!!python"),
        2048,
    )


READERS: dict[str, Callable[[Path], Harness]] = {
    "checkpoints": _checkpoints,
    "safetensors": _safetensors,
    "compact": _compact,
    "plans": _plans,
    "labels": _labels,
    "recipes": _recipes,
}


def check_line(error: BaseException) -> None:
    """Raise an AssertionError unless the message is one line of readable length."""
    said = str(error)
    assert said, type(error)
    assert "\n" not in said, said
    assert len(said) < 2100, len(said)


def run(harness: Harness, content: bytes, path: Path) -> str:
    """ "read" or "refused"; whatever else is raised passes."""
    from strzoo.errors import StrzooError

    try:
        harness.read(content, path)
    except StrzooError as error:
        check_line(error)
        return "refused"
    return "read"


def _write_words(path: Path, words: Iterable[str]) -> None:
    path.write_text("".join(f'"{word}"\n' for word in words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, help="keep what was found; begin from it")
    given = parser.parse_args()
    import atheris

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    memory = "/dev/shm"  # files there are written fastest
    folder = Path(tempfile.mkdtemp(dir=memory if os.path.isdir(memory) else None))
    (made := folder / "made").mkdir()
    path = folder / "input"
    with atheris.instrument_imports(include=INSTRUMENTED):
        harness = READERS[given.reader](made)
        outcomes = Counter(run(harness, seed, path) for seed in harness.seeds)
    print(f"seeds: {dict(outcomes)}", flush=True)
    corpus = given.corpus or folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for index, seed in enumerate(harness.seeds):
        (corpus / f"seed{index}").write_bytes(seed)
    _write_words(folder / "words", harness.words)
    options = [
        f"-max_total_time={given.seconds}",
        f"-timeout={SECONDS}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-max_len={harness.longest}",
        f"-dict={folder / 'words'}",
        f"-artifact_prefix={given.reader}-",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], lambda content: run(harness, content, path) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
