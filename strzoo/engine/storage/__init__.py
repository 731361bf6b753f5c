"""Plans and machine code on disk, checked when read."""
