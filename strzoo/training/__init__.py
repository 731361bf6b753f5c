"""Training: recipes, methods, the loop that resumes to the bit, and `fit` for data in memory."""
