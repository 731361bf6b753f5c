"""What is published: model cards, names, budgets. Standard library only."""
