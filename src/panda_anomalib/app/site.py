"""The pages: a list of images sorted by score, and a page for each of them."""

import hashlib
import io
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio.to_thread
from jinja2 import Environment, PackageLoader
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from panda_anomalib.app.gallery import Entry, Gallery
from panda_anomalib.app.guard import Guard
from panda_anomalib.atomic import write_atomically
from panda_anomalib.data.files import IMAGE_EXTENSIONS, find_images
from panda_anomalib.explanation import describe_p_value, draw_explanation
from panda_anomalib.overview import Thumbnails
from panda_anomalib.tiles import encode_png

__all__ = ["make_site"]

_LARGEST_FILE = 256 * 2**20
_PER_PAGE = 120


def make_site(gallery: Gallery, uploads: Path, *, public: bool = False) -> Starlette:
    """ASGI application that shows a gallery.

    Args:
        gallery: What it shows, and adds to.
        uploads: Folder for the files that are dropped on the page.
        public: Whether other machines may ask. They then may not name folders of this one.
    """
    pages = _Pages(gallery, uploads, folders=not public)
    routes = [
        Route("/", pages.index),
        Route("/image/{number:int}", pages.image),
        Route("/photo/{number:int}", pages.photo),
        Route("/thumbnail/{number:int}", pages.thumbnail),
        Route("/normal/{position:int}", pages.normal),
        Route("/picture/{number:int}.png", pages.picture),
        Route("/upload", pages.upload, methods=["POST"]),
        Route("/clear", pages.clear, methods=["POST"]),
        Mount("/static", StaticFiles(packages=[("panda_anomalib.app", "static")])),
    ]
    if not public:
        routes.insert(0, Route("/folder", pages.folder, methods=["POST"]))
    # A page elsewhere could give its own name this machine's address, and read what is meant for its owner only.
    hosts = ["*"] if public else ["127.0.0.1", "localhost"]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(Guard)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={404: pages.gone})


class _Pages:
    def __init__(self, gallery: Gallery, uploads: Path, *, folders: bool) -> None:
        self._gallery, self._uploads, self._folders = gallery, uploads, folders
        model = gallery.inspector.model
        self._positions = {path: position for position, path in reversed(list(enumerate(model.training_paths)))}
        self._photos, self._thumbnails = Thumbnails(1024, capacity=8), Thumbnails(264, capacity=256)
        environment = Environment(loader=PackageLoader("panda_anomalib.app"), autoescape=True)
        environment.globals.update(
            model=model.name,
            backbone=model.hparams["backbone"],
            count=len(model.training_paths),
            threshold=gallery.inspector.threshold,
            quantity=gallery.inspector.quantity,
            rate=float(model.post_processor.false_positive_rate),
            extensions=",".join(IMAGE_EXTENSIONS),
            folders=folders,
        )
        self._environment = environment

    def _render(self, template: str, /, *, status: int = 200, **values: object) -> Response:
        return HTMLResponse(self._environment.get_template(template).render(**values), status)

    def gone(self, request: Request, error: Exception) -> Response:
        del request
        return self._render("gone.html", status=404, reason=getattr(error, "detail", "Not found."))

    def index(self, request: Request) -> Response:
        entries = self._gallery.entries()
        last = max(0, (len(entries) - 1) // _PER_PAGE)
        asked = request.query_params.get("page", "0")
        page = min(int(asked) if asked.isdecimal() else 0, last)
        return self._render(
            "index.html",
            entries=entries[page * _PER_PAGE : (page + 1) * _PER_PAGE],
            total=len(entries),
            flagged=sum(entry.flagged for entry in entries),
            problems=dict(self._gallery.problems),
            page=page,
            first=page * _PER_PAGE + 1,
            last=last,
        )

    def image(self, request: Request) -> Response:
        entries, entry = self._gallery.entries(), self._entry(request)
        position = entries.index(entry)
        row, names = entry.row, [name for name in entry.row if name.startswith("neighbor_") and name.count("_") == 1]
        neighbors = [
            {
                "position": self._positions[row[name]],
                "name": "/".join(Path(row[name]).parts[-2:]),
                "distance": row[f"{name}_distance"],
                "problem": tile if isinstance(tile := self._thumbnails.get(row[name]), str) else "",
            }
            for name in names
        ]
        return self._render(
            "image.html",
            entry=entry,
            rank=position + 1,
            total=len(entries),
            page=position // _PER_PAGE,
            before=entries[position - 1] if position else None,
            after=entries[position + 1] if position + 1 < len(entries) else None,
            meaning=describe_p_value(float(row["p_value"])),
            neighbors=neighbors,
        )

    def _entry(self, request: Request) -> Entry:
        number = request.path_params["number"]
        for entry in self._gallery.entries():
            if entry.number == number:
                return entry
        raise HTTPException(404, "This image is not in the list any more.")

    def photo(self, request: Request) -> Response:
        return _encoded(self._photos.get(str(self._entry(request).path)))

    def thumbnail(self, request: Request) -> Response:
        return _encoded(self._thumbnails.get(str(self._entry(request).path)))

    def normal(self, request: Request) -> Response:
        paths = self._gallery.inspector.model.training_paths
        position = request.path_params["position"]
        if position >= len(paths):
            raise HTTPException(404)
        return _encoded(self._thumbnails.get(paths[position]))

    def picture(self, request: Request) -> Response:
        inspector = self._gallery.inspector
        drawn = draw_explanation(
            self._entry(request).row,
            threshold=inspector.threshold,
            num_neighbors=inspector.num_neighbors,
            tested=self._thumbnails,
            training=self._thumbnails,
            quantity=inspector.quantity,
        )
        return Response(encode_png(drawn), media_type="image/png")

    async def upload(self, request: Request) -> Response:
        name = Path(request.query_params.get("name", "")).name.strip(". ") or "image"
        content, size = bytearray(), 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= _LARGEST_FILE:  # the rest is read, or the browser would not listen to the answer
                content += chunk
        if size > _LARGEST_FILE:
            limit = f"file must have at most {_LARGEST_FILE // 2**20} MiB, got {size // 2**20}; make the image smaller."
            return JSONResponse({"problem": self._gallery.refuse(name, limit)}, 413)
        return await anyio.to_thread.run_sync(self._keep, name, content)

    def _keep(self, name: str, content: bytearray) -> Response:
        # names of files repeat; a file that is dropped again is the same as before
        folder = self._uploads / hashlib.sha256(content).hexdigest()[:16] / "dropped"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / re.sub(r"[^\w. ()+-]", "_", name)[-60:]
        write_atomically(path, partial(Path.write_bytes, data=content))
        added = self._gallery.add(path, name)
        if isinstance(added, str):
            return JSONResponse({"problem": added}, 422)
        return JSONResponse({"number": added.number})

    async def folder(self, request: Request) -> Response:
        folder = Path((await request.body()).decode(errors="replace").strip()).expanduser()
        paths = find_images(folder) if folder.is_dir() else []
        if not paths:
            wanted = f"hold images ({' '.join(IMAGE_EXTENSIONS)})" if folder.is_dir() else "exist on this machine"
            return JSONResponse({"problem": f"folder must {wanted}, got '{folder}'."}, 422)
        return StreamingResponse(self._inspect(folder, paths), media_type="application/x-ndjson")

    def _inspect(self, folder: Path, paths: list[Path]) -> Iterator[str]:
        for done, path in enumerate(paths, start=1):
            self._gallery.add(path, path.relative_to(folder).as_posix())
            yield json.dumps({"done": done, "total": len(paths)}) + "\n"

    def clear(self, request: Request) -> Response:
        del request
        self._gallery.clear()
        return JSONResponse({})


def _encoded(picture: Image.Image | str) -> Response:
    if isinstance(picture, str):
        raise HTTPException(404, picture)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92)
    return Response(file.getvalue(), media_type="image/jpeg")
