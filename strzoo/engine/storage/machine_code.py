"""Machine code of kernels for this processor, by LLVM, and its cache on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from strzoo.engine.codegen.blocks import NAME
from strzoo.engine.codegen.dispatch import emit_program
from strzoo.engine.codegen.mailboxes import NAMES
from strzoo.engine.codegen.operands import Kernel
from strzoo.engine.codegen.threads import emit_team
from strzoo.engine.hardware import Hardware, level_flags, level_of
from strzoo.engine.requirement import require_llvmlite
from strzoo.engine.storage.host import known_hardware
from strzoo.engine.storage.native_code import (
    LoadedCode,
    StoredCode,
    can_link,
    generator_digest,
    link,
)
from strzoo.engine.storage.private_folder import make_private, open_private
from strzoo.errors import StrzooError
from strzoo.sealed_files import SealedFile, write_sealed
from strzoo.version import VERSION

_LOG = logging.getLogger(__name__)
_MAGIC, _FORMAT = b"STRZCODE", 1
# What is linked here is one block; what LLVM loads may be far from what it refers to.
_MODEL = "small" if can_link() else "jitdefault"
_PARTS, _PART_KERNELS = 2, 5  # modules at most, and kernels of one at least
# LLVM's second level of passes takes half a second longer for ResNet50 and made no kernel faster.
_PASSES = 1


class MachineCode:
    """Loaded code: `addresses` of its functions by name.

    Args:
        image: an object file.
        names: of the functions that it must have.

    Raises:
        ValueError: it lacks some.
    """

    def __init__(self, image: bytes, names: Iterable[str]) -> None:
        self.image = image
        # The owner of the code must live as long as an address is in use.
        if can_link():
            code = LoadedCode(link(image))
            self._owner: Any = code
            self.addresses = {name: code.addresses.get(name, 0) for name in names}
        else:
            self._owner = _load_by_llvm(image)
            self.addresses = {name: self._owner.get_function_address(name) for name in names}
        missing = [name for name, address in self.addresses.items() if not address]
        if missing:
            raise ValueError(f"the machine code lacks {', '.join(missing)}")


def _load_by_llvm(image: bytes) -> Any:
    """For systems whose object files `native_code` does not link."""
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(image))
    engine.finalize_object()
    return engine


def compile_kernels(
    kernels: Iterable[Kernel], hardware: Hardware, folder: Path | None = None
) -> MachineCode:
    """Compile the kernels, the function that runs a plan, and those that teams of threads use.

    Args: `folder` keeps the code of each set of kernels; None keeps none.
    """
    ordered = _order(kernels)
    names = _list_functions(ordered)
    folder = open_private(folder)
    file = folder / f"{_key(ordered, hardware, folder)}.code" if folder else None
    if file is not None and file.exists():
        try:
            return MachineCode(_read(file), names)
        except Exception as error:  # LLVM raises errors of several classes
            _LOG.warning("%s cannot be loaded (%s); compiling again", file, error)
    require_llvmlite()
    code = MachineCode(_compile(_emit(ordered)), names)
    if file is not None:
        try:
            make_private(file.parent)
            write_sealed(file, _MAGIC, _FORMAT, [code.image], force=True)
        except (OSError, StrzooError) as error:
            _LOG.warning("the machine code is not kept: %s", error)
    return code


def compile_quickly(kernels: Iterable[Kernel]) -> MachineCode:
    """As `compile_kernels`, in a third of the time, code that takes 1.6 times as long to run
    (measured for ResNet50 on Zen 3). It is not kept."""
    require_llvmlite()
    ordered = _order(kernels)
    return MachineCode(_compile(_emit(ordered), quickly=True), _list_functions(ordered))


def compile_functions(emit: Callable[[Any], None], names: Iterable[str]) -> MachineCode:
    """Compile other functions than kernels, which are not kept: `emit` writes them to a module."""
    require_llvmlite()
    module = _new_module()
    emit(module)
    return MachineCode(_compile([module]), names)


def store_code(kernels: Iterable[Kernel], hardware: Hardware) -> StoredCode:
    """The code of `compile_kernels` as a `.strz` file holds it, for every processor of the level
    that has the vectors of `hardware`.

    Raises:
        UsageError: there is no such level here.
        StrzooError: the code calls functions of a library.
    """
    cpu = level_of(hardware)
    block = link(_compile(_emit(_order(kernels), cpu), cpu))
    return StoredCode(cpu, generator_digest(), block)


def _order(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Each kernel once, by name."""
    unique = {kernel.name: kernel for kernel in kernels}
    return [unique[name] for name in sorted(unique)]


def _list_functions(kernels: list[Kernel]) -> list[str]:
    """Those that the code of the kernels has."""
    return [*(kernel.name for kernel in kernels), NAME, *NAMES]


def _read(file: Path) -> bytes:
    with SealedFile(file, _MAGIC, (_FORMAT,), "machine code") as sealed:
        return sealed.read(0, sealed.size, partial(np.empty, dtype=np.uint8)).tobytes()


def _key(kernels: list[Kernel], hardware: Hardware, folder: Path) -> str:
    import llvmlite

    # A plan for a level of processors runs as code for this one.
    identities = [hardware.identity, known_hardware(folder).identity]
    parts = [VERSION, llvmlite.__version__, generator_digest(), _MODEL, *identities]
    return hashlib.sha256("\n".join([*parts, *map(repr, kernels)]).encode()).hexdigest()[:32]


def _new_module(cpu: str | None = None) -> Any:
    """A module, with what kernels ask of the processor: `cpu` as `_target_machine`."""
    from llvmlite import ir

    module = ir.Module("strzoo")
    module.triple, module.features = _host()
    if cpu is not None:
        module.features = ",".join(f"+{flag}" for flag in level_flags(cpu))
    return module


@lru_cache(maxsize=1)
def _host() -> tuple[str, str]:
    """This processor and system, and its features. Kept, as asking LLVM waits for what it does."""
    import llvmlite.binding as llvm

    return llvm.get_process_triple(), llvm.get_host_cpu_features().flatten()


def _emit(kernels: list[Kernel], cpu: str | None = None) -> Iterator[Any]:
    """Modules that make one object file together."""
    parts = max(1, min(_PARTS, len(kernels) // _PART_KERNELS))
    for part in range(parts):
        module = _new_module(cpu)
        for kernel in kernels[part * len(kernels) // parts : (part + 1) * len(kernels) // parts]:
            kernel.emit(module)
        if part == parts - 1:
            emit_program(module)
            emit_team(module)
        yield module


def _compile(modules: Iterable[Any], cpu: str | None = None, *, quickly: bool = False) -> bytes:
    """The object file. LLVM works on a module while the next one is written.

    Args: `cpu` as `_target_machine`.
    """
    machine = _target_machine(cpu, effort=0 if quickly else 3)
    with ThreadPoolExecutor(1) as helper:
        futures = [
            helper.submit(_optimise, str(module), machine, 0 if quickly else _PASSES)
            for module in modules
        ]
    whole, *others = [future.result() for future in futures]
    for other in others:
        whole.link_in(other)
    image: bytes = machine.emit_object(whole)
    return image


def _optimise(text: str, machine: Any, effort: int) -> Any:
    """The module that `text` describes, after LLVM's passes."""
    import llvmlite.binding as llvm

    parsed = llvm.parse_assembly(text)
    parsed.triple = machine.triple
    parsed.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=effort)
    options.loop_unrolling = True
    options.loop_vectorization = False  # kernels are vectorised already
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    passes.run(parsed, builder)
    _free(passes)
    return parsed


def _free(passes: Any) -> None:
    """Free a pass manager, which llvmlite does not (0.45 to 0.50): its class inherits the
    `_dispose` that does nothing before the one that frees."""
    from llvmlite.binding import ffi, newpassmanagers

    if type(passes)._dispose is ffi.ObjectRef._dispose:
        newpassmanagers.NewPassManager._dispose(passes)
        passes.detach()
    else:
        passes.close()


def _target_machine(cpu: str | None = None, effort: int = 3) -> Any:
    """A description of a processor and how to make code for it.

    Args:
        cpu: one of `hardware.LEVELS`, for code that a file holds; None is this one.
        effort: 0 to 3, of the code generator.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=cpu or llvm.get_host_cpu_name(),
        features="" if cpu else llvm.get_host_cpu_features().flatten(),
        opt=effort,
        reloc="pic",
        codemodel=_MODEL,
        jit=not can_link(),
    )
