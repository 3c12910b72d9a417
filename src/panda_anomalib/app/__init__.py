"""Interactive look at a trained model in a web browser: drop images, see verdicts, sort a folder by score.

Plain pages from a small server on this machine. Nothing is loaded from elsewhere, and the pages forbid it themselves.
"""

from panda_anomalib.app.gallery import Entry, Gallery
from panda_anomalib.app.server import serve
from panda_anomalib.app.site import make_site

__all__ = ["Entry", "Gallery", "make_site", "serve"]
