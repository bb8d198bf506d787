"""The machine: devices, cores, processes."""
