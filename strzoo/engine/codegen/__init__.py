"""Code generation: each kernel generates the LLVM IR of one kind of instruction."""
