"""The machine: how to work (no spec contains it), memory, disk, progress bars, and numbers as text for people."""
