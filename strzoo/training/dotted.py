"""What a recipe names by its dotted path: losses, optimizers, augmentations of any package."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from strzoo.errors import UsageError, one_line
from strzoo.models.external import import_code


def load_dotted(path: str, key: str) -> Any:
    """The class or function that `path` names; modules of the working folder are found, too.

    Args:
        path: package.module.Name.
        key: of the configuration, for messages.

    Raises:
        StrzooError: its module cannot be imported.
        UsageError: the module has no such name.
    """
    module, _, name = path.rpartition(".")
    found = getattr(import_code(module, f"{key}={path}"), name, None)
    if not callable(found):
        raise UsageError(f"{key}={path}: {module} has no class or function {name!r}")
    return found


def call_dotted(path: str, arguments: Mapping[str, Any], key: str, *given: Any) -> Any:
    """What a class makes of these arguments; a function with them filled in.

    Args:
        path: as `load_dotted` takes it.
        arguments: by name.
        key: of the configuration, for messages.
        given: arguments before those.

    Raises: as `load_dotted`, and
        UsageError: the arguments do not fit.
    """
    found = load_dotted(path, key)
    if not inspect.isclass(found):
        return functools.partial(found, *given, **arguments)
    try:
        return found(*given, **arguments)
    except Exception as error:  # libraries and people raise what they like
        raise UsageError(
            f"{key}={path} cannot be made with {key}_args: {type(error).__name__}: "
            f"{one_line(str(error))}"
        ) from error
