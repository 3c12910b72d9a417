"""Reading images must not wait for anomalib's models to load."""

import subprocess
import sys


def test_data_does_not_import_models() -> None:
    """In a fresh process, as other tests import the models."""
    code = "import sys, panda_anomalib.data; sys.exit(any(name.startswith('anomalib.models') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
