"""``python -m panda_anomalib``: the same as the command ``panda-anomalib``."""

from panda_anomalib.cli import main

if __name__ == "__main__":
    main()
