"""The machine: its devices, cores and processes."""
