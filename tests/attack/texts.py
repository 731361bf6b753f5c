"""Recipes in YAML, registries, budgets, names of classes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.attack.case import READ, Case, text_cases

_LAUGHS = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)
_MERGES = "m0: &m0 {a: 1}\n" + "".join(
    f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 30)
)
_ODD: dict[str, str | bytes] = {
    "empty": "",
    "a list": "[1]",
    "a number": "7",
    "zeros": bytes(100),
    "not text": b"\xff\xfe\xfd\xfc\xfb",
    "half a surrogate": b"\xed\xa0\x80",
    "deep": "[" * 100_000,
    "deep and closed": "[" * 5000 + "]" * 5000,
    "deep mappings": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "5,000 digits": "9" * 5000,
    "40 MB": "x" * (40 << 20),
    "null characters": '{"a\\u0000": "\\u0000"}',
}
_YAML: dict[str, str | bytes] = {
    "aliases of aliases": _LAUGHS,
    "merges of merges": _MERGES,
    "an alias of itself": "a: &a [*a]",
    "a key twice": "epochs: 1\nepochs: 2",
    "a key that is a list": "? [1, 2]\n: 3",
    "a key that is a mapping": "? {a: 1}\n: 3",
    "a Python object": "!!python/object/apply:os.system ['touch executed']",
    "a Python name": "a: !!python/name:os.system",
    "binary": "a: !!binary x",
    "a set": "!!set {a, b}",
    "a date of no calendar": "seed: 2001-13-45",
    "sixties": "seed: 190:20:30:40:50:60",
    "hexadecimal of 5,000 digits": "seed: 0x" + "f" * 5000,
    "sixties of 5,000": "seed: 1" + ":59" * 5000,
    "tags without an end": "a: " + "!!str " * 500,
    "2 MB": "".join(f"key{i}: {i}\n" for i in range(150_000)),
    "tabs": "a:\n\t- b",
    "documents": "a: 1\n---\nb: 2",
    "directives": "%YAML 9.9\n---\na: 1",
    "anchors without names": "a: & b",
    "text of 100,000": "recipe: " + "a" * 100_000,
    "key of 100,000": "a" * 100_000 + ": 1",
    "escape codes": 'output: "\\e[31m\\0\\n"',
}
_VALUES = {
    "epochs": ("1e18", "1000000000000000000", "-1", "0", ".inf", ".nan",
               "true", "'x'", "[1]", "null"),
    "batch_size": ("0", "-5", "1000000000000", "1.5"),
    "learning_rate": (".inf", ".nan", "-1", "1e400", "1e-400"),
    "num_classes": ("0", "1000000000000", "-3"),
    "workers": ("1000000000", "-1"),
    "milestones": ("[.nan]", "[1e308]", "[-1, -2]", "{a: 1}"),
    "target_sparsity": ("1.5", ".nan", "-0.1"),
    "seed": ("-1", "18446744073709551616", "1e30"),
    "image_size": ("0", "1000000000", "-7"),
    "warmup_epochs": ("1e18", ".nan", "-1"),
    "data": ("/dev/zero", "'a\\0b'", "~nobody-here/x", "..", "/proc/self/mem"),
    "output": ("/dev/null", "/proc/x", "''"),
    "budget": ("/dev/zero", "../../x.json", "none.json"),
    "pretrained": ("/dev/zero", "none.pth"),
    "resume": ("/dev/zero", "none.pth"),
    "extends": ("a.yaml", "../a.yaml", "/dev/zero", "[1]", "none"),
    "architecture": ("os:system", "timm:none", "'package.module:f'", "1"),
}  # fmt: skip

_CARD = (
    '{"schema": 1, "models": [{"id": "a", "architecture": "resnet50", "method": "str", '
    '"sparsity": %s, "params": %s}]}'
)
_JSON: dict[str, str | bytes] = {
    "a name twice": '{"schema": 1, "schema": 1}',
    "schema 10^30": '{"schema": 1000000000000000000000000000000, "models": []}',
    "schema infinite": '{"schema": Infinity, "models": []}',
    "models a mapping": '{"schema": 1, "models": {}}',
    "models of numbers": '{"schema": 1, "models": [1, 2]}',
    "infinite sparsity": _CARD % ("1e999", "1"),
    "nan sparsity": _CARD % ("NaN", "1"),
    "huge params": _CARD % ("50.0", "9" * 4000),
    "name of escapes": '{"\\u001b[31m\\n": 1}',
    "name of 100,000": '{"' + "a" * 100_000 + '": 1}',
    "100,000 names": "{" + ",".join(f'"a{i}": 1' for i in range(100_000)) + "}",
}  # fmt: skip
_BUDGET = (
    '{"schema": 1, "name": "b", "architecture": "resnet50", "method": "str", "sparsity": %s, '
    '"source": "s", "layers": {"conv1": %s}}'
)
_BUDGETS = {
    f"{a[:12]} and {b[:12]}": _BUDGET % (a, b)
    for a, b in (("NaN", "1"), ("1", "NaN"), ("1e999", "1"), ("-1", "1"), ("101", "1"),
                 ("9" * 4000, "1"), ("true", "1"), ('"x"', "1"), ("1", "[1]"), ("1", "null"))
}  # fmt: skip


def cases() -> Iterator[Case]:
    for command in ("train a.yaml --dry-run", "rnn train a.yaml --dry-run"):
        yield from text_cases(f"recipe ({command})", "a.yaml", command, _ODD | _YAML, READ)
    values: dict[str, str | bytes] = {
        f"{key} {value}": f"{key}: {value}\n" for key, some in _VALUES.items() for value in some
    }
    yield from text_cases("recipe", "a.yaml", "train a.yaml --dry-run", values, READ)
    based = {name: f"extends: digits_str\n{text!s}" for name, text in values.items()
             if not name.startswith("extends")}  # fmt: skip
    yield from text_cases(
        "recipe on digits", "a.yaml", "train a.yaml --dry-run --json", dict(based), READ
    )
    yield from text_cases("registry", "a.json", "list --registry a.json", _ODD | _JSON, READ)
    yield from text_cases(
        "budget", "a.json", "budgets show a.json", _ODD | _JSON | dict(_BUDGETS), READ
    )
    yield from text_cases("classes", "a.txt", "predict @cifar @image --classes a.txt", _ODD, READ)
    yield from text_cases(
        "class names",
        "a.txt",
        "export @cifar -o out.onnx --class-names a.txt",
        dict(list(_ODD.items())[:7]),
        READ,
    )
