"""Whether llvmlite, which is optional, is installed, and the error if it is not."""

from __future__ import annotations

from importlib.util import find_spec

from strzoo.errors import StrzooError, install_advice


def has_llvmlite() -> bool:
    """Whether the sparse engine can run here; imports nothing."""
    try:
        return find_spec("llvmlite") is not None
    except (ImportError, ValueError):  # something stands in its place
        return False


def llvmlite_version() -> str:
    """Of the llvmlite that is installed; the library itself is not loaded."""
    import llvmlite

    return str(llvmlite.__version__)


def expect_llvmlite() -> None:
    """As `require_llvmlite`, but LLVM is not loaded where it seems to be there."""
    if not has_llvmlite():
        require_llvmlite()


def require_llvmlite() -> None:
    """Raise a StrzooError that says what to install unless llvmlite can be imported."""
    try:
        import llvmlite.binding
        import llvmlite.ir  # noqa: F401
    except (ImportError, OSError) as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise StrzooError(
            f"the sparse engine needs llvmlite{reason}: {install_advice('engine')}"
        ) from None
