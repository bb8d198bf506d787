"""The commands of the shell: check a folder, train a detector, detect with it."""
