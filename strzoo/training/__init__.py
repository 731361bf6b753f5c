"""Training: parameter groups and a short loop for data that fits in memory."""
