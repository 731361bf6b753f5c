"""The architectures of the zoo, each one record in a file of its own."""
