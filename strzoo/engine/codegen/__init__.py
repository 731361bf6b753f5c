"""The kernel generators: each writes LLVM IR for one kind of step."""
