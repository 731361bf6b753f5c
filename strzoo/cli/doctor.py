"""`strzoo doctor`: what a bug report needs, and what is wrong with this installation."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from strzoo.cli.options import json_option, settings_options
from strzoo.cli.output import print_json, say
from strzoo.downloads.maintenance import list_compiled
from strzoo.errors import StrzooError, install_advice
from strzoo.settings import Settings
from strzoo.version import VERSION

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "safetensors",
    "fvcore",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "gdown",
    "rich",
    "click",
)
# What extras bring.
OPTIONAL = {"llvmlite": "engine", "pyarrow": "parquet", "matplotlib": "plot"}


@click.command()
@json_option
@settings_options
def doctor(as_json: bool, settings: Settings) -> None:
    """Show versions, devices, cache and disk; ends with exit code 1 if something is broken."""
    found, problems = examine(settings)
    if as_json:
        print_json({"schema": 1, **found, "problems": problems})
    else:
        width = max(len(name) for section in found.values() for name in section)
        for title, section in found.items():
            say(f"{title}")
            for name, value in section.items():
                say(f"  {name:<{width}}  {value}")
        say(f"problems: {len(problems)}")
    if problems:
        raise StrzooError("; ".join(problems))


def examine(settings: Settings) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The facts by section, and what is wrong, one line each."""
    problems: list[str] = []
    sections = {
        "versions": _versions(problems),
        "devices": _devices(problems),
        "cache": _cache(settings, problems),
        "data": _data(settings, problems),
    }
    return sections, problems


def _versions(problems: list[str]) -> dict[str, Any]:
    versions = {
        "strzoo": VERSION,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
            problems.append(f"{package} is not installed: {install_advice(package)}")
    for package, extra in OPTIONAL.items():
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = f"not installed ({install_advice(extra)})"
    return versions


def _devices(problems: list[str]) -> dict[str, Any]:
    devices: dict[str, Any] = {"cpu cores": os.cpu_count()}
    try:
        import torch

        devices["torch threads"] = torch.get_num_threads()
        devices["cuda"] = torch.version.cuda or "not built in"
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        devices["gpus"] = ", ".join(names) or "none"
    except (ImportError, OSError, RuntimeError) as error:
        problems.append(f"torch does not work: {error}")
    try:
        import torchvision

        devices["torchvision"] = f"imports ({torchvision.__version__})"
    except (ImportError, OSError, RuntimeError) as error:
        problems.append(f"torchvision does not match torch: {error}")
    try:
        import onnxruntime

        devices["onnxruntime"] = ", ".join(onnxruntime.get_available_providers())
    except (ImportError, OSError) as error:
        problems.append(f"onnxruntime does not work: {error}")
    return devices


def _cache(settings: Settings, problems: list[str]) -> dict[str, Any]:
    folder = settings.cache_dir
    base = next(p for p in (folder, *folder.parents) if p.exists())
    files = sorted(folder.glob("*.pth")) if folder.is_dir() else []
    if not base.is_dir() or not os.access(base, os.W_OK):
        problems.append(f"{folder} cannot be written; pass --cache-dir or set STRZOO_HOME")
    total = sum(file.stat().st_size for file in files)
    compiled = list_compiled(folder)
    size = sum(file.stat().st_size for file in compiled)
    return {
        "folder": f"{folder}{'' if folder.is_dir() else ' (not made yet)'}",
        "files": f"{len(files)} ({total / 1e6:.1f} MB)",
        "compiled": f"{len(compiled)} ({size / 1e6:.1f} MB)",
        "disk free": f"{shutil.disk_usage(base).free / 1e9:.1f} GB",
        "offline": settings.offline,
    }


def _data(settings: Settings, problems: list[str]) -> dict[str, Any]:
    from strzoo.zoo.budgets import list_budgets, load_budget
    from strzoo.zoo.registry import data_path, load_registry

    data: dict[str, Any] = {}
    try:
        data["registry"] = f"{len(load_registry(settings))} models"
        data["budgets"] = f"{len([load_budget(name) for name in list_budgets()])}"
        data["where"] = str(Path(data_path("checkpoints.json")).parent)
    except StrzooError as error:
        problems.append(str(error))
    return data
