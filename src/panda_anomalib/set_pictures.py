"""A set of images as one picture."""

import math
from collections.abc import Callable, Sequence

from PIL import Image
from typing_extensions import override

from panda_anomalib.overview import Thumbnails

__all__ = ["SetThumbnails"]

_MOST = 64


class SetThumbnails(Thumbnails):
    """Reads sets of images as small RGB pictures, their images in rows, by the names of the sets.

    Args:
        size: Width and height in pixels at most.
        capacity: Number of pictures kept.
        images_of: Paths of the images of a set; None or nothing where they are not known.
    """

    def __init__(self, size: int, *, capacity: int, images_of: Callable[[str], Sequence[str] | None]) -> None:
        super().__init__(size, capacity=capacity)
        self._images_of = images_of

    @override
    def _read(self, path: str) -> Image.Image | str:
        """Return the picture, of the first 64 images, or what is wrong in a few words."""
        images = list(self._images_of(path) or [])[:_MOST]
        if not images:
            return "images not known"
        columns = math.ceil(math.sqrt(len(images)))
        side = self._size // columns
        canvas = Image.new("RGB", (columns * side, -(-len(images) // columns) * side), "#F4F4F4")
        single = Thumbnails(side, capacity=1)
        for number, image in enumerate(images):
            picture = single.get(image)
            if isinstance(picture, str):  # a hole among the others says enough
                continue
            scale = (side - 1) / max(picture.size)
            fitted = picture.resize([max(1, round(length * scale)) for length in picture.size])
            row, column = divmod(number, columns)
            left, top = (side - fitted.width) // 2, (side - fitted.height) // 2
            canvas.paste(fitted, (column * side + left, row * side + top))
        return canvas
