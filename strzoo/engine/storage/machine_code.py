"""Machine code of kernels for this processor, by LLVM, and its cache on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from strzoo.engine.codegen.dispatch import NAME, emit_program
from strzoo.engine.codegen.operands import Kernel
from strzoo.engine.codegen.threads import NAMES, emit_team
from strzoo.engine.hardware import Hardware
from strzoo.engine.storage.private_folder import make_private, open_private
from strzoo.errors import StrzooError
from strzoo.sealed_files import read_sealed, write_sealed
from strzoo.version import VERSION

_LOG = logging.getLogger(__name__)
_MAGIC, _FORMAT = b"STRZCODE", 1


class MachineCode:
    """Loaded code: `addresses` of its functions by name."""

    def __init__(self, image: bytes, names: Iterable[str]) -> None:
        import llvmlite.binding as llvm

        self.image = image
        # The engine owns the code: it must live as long as an address is in use.
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(image))
        self._engine.finalize_object()
        self.addresses = {name: self._engine.get_function_address(name) for name in names}
        missing = [name for name, address in self.addresses.items() if not address]
        if missing:
            raise ValueError(f"the machine code lacks {', '.join(missing)}")


def compile_kernels(
    kernels: Iterable[Kernel], hardware: Hardware, folder: Path | None = None
) -> MachineCode:
    """Compile the kernels, the function that runs a plan, and those that teams of threads use.

    Args: `folder` keeps the code of each set of kernels; None keeps none.
    """
    unique = {kernel.name: kernel for kernel in kernels}
    names = [*unique, NAME, *NAMES]
    ordered = [unique[name] for name in sorted(unique)]
    folder = open_private(folder)
    file = folder / f"{_key(ordered, hardware)}.code" if folder else None
    if file is not None and file.exists():
        try:
            return MachineCode(read_sealed(file, _MAGIC, _FORMAT, "machine code").tobytes(), names)
        except Exception as error:  # LLVM raises errors of several classes
            _LOG.warning("%s cannot be loaded (%s); compiling again", file, error)
    code = MachineCode(_compile(_emit(ordered)), names)
    if file is not None:
        try:
            make_private(file.parent)
            write_sealed(file, _MAGIC, _FORMAT, [code.image], force=True)
        except (OSError, StrzooError) as error:
            _LOG.warning("the machine code is not kept: %s", error)
    return code


def _key(kernels: list[Kernel], hardware: Hardware) -> str:
    import llvmlite

    parts = [VERSION, llvmlite.__version__, _generator_digest(), hardware.identity]
    return hashlib.sha256("\n".join([*parts, *map(repr, kernels)]).encode()).hexdigest()[:32]


def _generator_digest() -> str:
    """The hash of the generators' source, so that code of another version is not used."""
    digest = hashlib.sha256()
    for file in sorted((Path(__file__).parent.parent / "codegen").glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _emit(kernels: list[Kernel]) -> Any:
    import llvmlite.binding as llvm
    from llvmlite import ir

    module = ir.Module("strzoo")
    module.triple = llvm.get_process_triple()
    module.features = llvm.get_host_cpu_features().flatten()
    for kernel in kernels:
        kernel.emit(module)
    emit_program(module)
    emit_team(module)
    return module


def _compile(module: Any) -> bytes:
    import llvmlite.binding as llvm

    machine = _target_machine()
    parsed = llvm.parse_assembly(str(module))
    parsed.triple = machine.triple
    parsed.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = True
    options.loop_vectorization = False  # kernels are vectorised already
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    image: bytes = machine.emit_object(parsed)
    return image


def _target_machine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="jitdefault",
        jit=True,
    )
