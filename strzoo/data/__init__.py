"""Data sets: the bundled digits; ImageNet and image folders to come."""
