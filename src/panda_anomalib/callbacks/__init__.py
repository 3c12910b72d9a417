"""Lightning callbacks of the adaptation; each works on Lightning modules that are not ours, too."""
