"""The pages without a browser: what they say, and whom they answer."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import engine, one_class, seeded
from served import serving

from panda_anomalib import Dn2
from panda_anomalib.app import Entry, Gallery, make_site, site
from panda_anomalib.app.server import serve
from panda_anomalib.scoring import ImageInspector

OWN = {"X-Requested-With": "panda-anomalib"}


@pytest.fixture(scope="module")
def inspector(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageInspector:
    """A small model of astronauts."""
    run = engine(tmp_path_factory.mktemp("run"))
    run.fit(seeded(Dn2), datamodule=one_class(photographs))
    return ImageInspector(run.trainer.checkpoint_callback.best_model_path, runtime="eager")


@pytest.fixture
def gallery(inspector: ImageInspector) -> Gallery:
    """Nothing inspected yet."""
    return Gallery(inspector)


class Served:
    """A site behind a real server on this machine."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        """Status and text of an answer."""
        status, content, _ = self.fetch(path, body, **headers)
        return status, content.decode().replace("<wbr>", "")

    def fetch(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
        """Status, content and headers of an answer."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://{self.address}{path}", body, names)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), error.headers


@pytest.fixture
def served(gallery: Gallery, tmp_path: Path) -> Iterator[Served]:
    """The site of the gallery, on this machine only."""
    (tmp_path / "uploads").mkdir()
    with serving(make_site(gallery, tmp_path / "uploads")) as address:
        yield Served(address)


def _send(served: Served, path: Path, name: str | None = None) -> tuple[int, dict[str, Any]]:
    status, text = served.ask(f"/upload?name={name or path.name}", path.read_bytes(), **OWN)
    return status, json.loads(text)


def test_a_dropped_image_gets_the_verdict_of_the_model(
    served: Served, gallery: Gallery, photographs: Path, inspector: ImageInspector
) -> None:
    """All that was promised stands on its page: score, verdict, threshold, p-value, neighbours in their order."""
    status, answer = _send(served, photographs / "coffee/03.png")
    assert status == 200
    row = inspector.inspect(photographs / "coffee/03.png")
    status, page = served.ask(f"/image/{answer['number']}")
    assert status == 200
    assert f"score <b>{row['score']:.3f}</b>" in page
    assert f'<p class="badge">{"anomalous" if row["predicted_label"] else "normal"}</p>' in page
    assert f"distance {row['distance']:.4g}, threshold {inspector.threshold:.4g}" in page
    assert " % of normal images look at least this unusual" in page
    neighbors = [f"distance {row[f'neighbor_{rank}_distance']:.4g}</span>" for rank in range(1, 6)]
    places = [page.index(text) for text in neighbors]
    assert places == sorted(places)
    names = ["/".join(Path(row[f"neighbor_{rank}"]).parts[-2:]) for rank in range(1, 6)]
    assert [page.index(f">{name}</span>") for name in names] == sorted(page.index(f">{name}</span>") for name in names)
    positions = [inspector.model.training_paths.index(row[f"neighbor_{rank}"]) for rank in range(1, 6)]
    for path, start in [(f"/normal/{position}", b"\xff\xd8") for position in positions] + [
        (f"/photo/{answer['number']}", b"\xff\xd8"),
        (f"/thumbnail/{answer['number']}", b"\xff\xd8"),
        (f"/picture/{answer['number']}.png", b"\x89PNG"),
    ]:
        status, content, _ = served.fetch(path)
        assert (status, content[: len(start)]) == (200, start)


def test_a_folder_is_sorted_by_score(
    served: Served, gallery: Gallery, photographs: Path, inspector: ImageInspector
) -> None:
    """Its progress is told on the way; the second time nothing is listed twice, and addresses stay what they were."""
    numbers = []
    for _ in range(2):
        status, text = served.ask("/folder", str(photographs / "coffee").encode(), **OWN)
        assert status == 200
        assert [json.loads(line) for line in text.splitlines()] == [{"done": i, "total": 12} for i in range(1, 13)]
        numbers.append([entry.number for entry in gallery.entries()])
    assert numbers[0] == numbers[1]
    page = served.ask("/")[1]
    assert "12 images, " in page
    distances = {path.name: inspector.inspect(path)["distance"] for path in (photographs / "coffee").iterdir()}
    expected = sorted(distances, key=lambda name: -distances[name])
    assert sorted(expected, key=lambda name: page.index(f">{name}</span>")) == expected


def test_a_file_dropped_twice_is_listed_once(served: Served, gallery: Gallery, photographs: Path) -> None:
    """But another file of its name is another one."""
    for name, content in (("a.png", "00"), ("a.png", "00"), ("a.png", "01"), ("b.png", "00")):
        assert _send(served, photographs / f"coffee/{content}.png", name)[0] == 200
    assert sorted(entry.name for entry in gallery.entries()) == ["a.png", "a.png", "b.png"]


def test_images_follow_each_other_by_score(served: Served, gallery: Gallery, photographs: Path) -> None:
    """From the page of one to those beside it in the list."""
    for name in ("00.png", "01.png", "02.png"):
        gallery.add(photographs / "coffee" / name, name)
    most, middle, least = gallery.entries()
    page = served.ask(f"/image/{middle.number}")[1]
    assert f'rel="prev" href="/image/{most.number}"' in page
    assert f'rel="next" href="/image/{least.number}"' in page
    assert "2 of 3" in page
    assert 'rel="prev"' not in served.ask(f"/image/{most.number}")[1]
    assert 'rel="next"' not in served.ask(f"/image/{least.number}")[1]


def test_long_lists_have_several_pages(
    served: Served, gallery: Gallery, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is on one of them, and knows on which."""
    monkeypatch.setattr(site, "_PER_PAGE", 2)
    for number in range(5):
        gallery.add(photographs / f"coffee/{number:02}.png", f"{number}.png")
    shown = [
        [e for e in gallery.entries() if f'href="/image/{e.number}"' in served.ask(f"/?page={i}")[1]] for i in range(3)
    ]
    assert [entry for page in shown for entry in page] == gallery.entries()
    assert 'href="/?page=1"' in served.ask(f"/image/{gallery.entries()[3].number}")[1]
    for beyond in ("9", "-1", "x"):
        assert served.ask(f"/?page={beyond}")[0] == 200


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.txt", b"text", "notes.txt</b>: file must be an image (.jpg "),
        ("broken.png", b"text", "broken.png</b>: image &#39;broken.png&#39; cannot be read: "),
        ("..", b"text", "image</b>: file must be an image"),
        ("<b>bold.gif", b"GIF89a", "&lt;b&gt;bold.gif</b>: file must be an image"),
        ("x" * 300 + ".png", b"", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used_are_told_in_the_page(
    served: Served, gallery: Gallery, name: str, content: bytes, reason: str
) -> None:
    """By the name the user knows, without the place where the file was kept; the list stays as it was."""
    status, text = served.ask(f"/upload?name={urllib.request.quote(name)}", content, **OWN)
    assert status == 422
    assert "uploads" not in json.loads(text)["problem"]
    page = served.ask("/")[1]
    assert "1 file could not be scored" in page
    assert reason in page
    assert gallery.entries() == []
    served.ask("/clear", b"", **OWN)
    assert "could not be scored" not in served.ask("/")[1]


def test_a_file_that_is_too_large_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not kept, and said."""
    monkeypatch.setattr(site, "_LARGEST_FILE", 2**20)
    status, text = served.ask("/upload?name=large.png", bytes(3 * 2**20), **OWN)
    assert (status, json.loads(text)["problem"]) == (
        413,
        "file must have at most 1 MiB, got 3; make the image smaller.",
    )


def test_a_problem_is_over_when_the_file_is_mended(served: Served, photographs: Path, tmp_path: Path) -> None:
    """The next time it is sent."""
    (tmp_path / "a.png").write_bytes(b"half")
    assert _send(served, tmp_path / "a.png")[0] == 422
    assert _send(served, photographs / "coffee/00.png", "a.png")[0] == 200
    assert "could not be scored" not in served.ask("/")[1]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("nowhere", "folder must exist on this machine, got "), ("", "folder must hold images (.jpg ")],
)
def test_a_folder_without_images_is_told(served: Served, tmp_path: Path, folder: str, reason: str) -> None:
    """So is one that does not exist."""
    status, text = served.ask("/folder", str(tmp_path / folder).encode(), **OWN)
    assert status == 422
    assert json.loads(text)["problem"].startswith(reason)


def test_training_images_that_are_gone_are_told(
    served: Served, gallery: Gallery, photographs: Path, inspector: ImageInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model may have come from another machine."""
    entry = gallery.add(photographs / "coffee/00.png", "00.png")
    assert isinstance(entry, Entry)
    moved = [path.replace("astronaut", "elsewhere") for path in inspector.model.training_paths]
    monkeypatch.setattr(inspector.model, "training_paths", moved)
    with serving(make_site(gallery, photographs)) as address:
        made_anew = Served(address)
        entry.row.update(inspector.inspect(entry.path))
        status, page = made_anew.ask(f"/image/{entry.number}")
        assert status == 200
        assert page.count('<span class="gone">moved or deleted</span>') == 5
        assert made_anew.fetch("/normal/0")[0] == 404


@pytest.mark.parametrize(
    "path", ["/image/9", "/photo/9", "/picture/9.png", "/normal/99999", "/nothing", "/static/../site.py"]
)
def test_what_is_not_there_has_a_page_that_says_so(served: Served, path: str) -> None:
    """With a way back."""
    status, page = served.ask(path)
    assert status == 404
    assert '<a href="/">All images</a>' in page


def test_pages_forbid_whatever_comes_from_elsewhere(served: Served) -> None:
    """By the header that browsers obey, on every answer; and none of them names another place."""
    for path in ("/", "/static/page.css", "/static/page.js", "/static/icon.svg", "/nothing"):
        _, content, headers = served.fetch(path)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; img-src 'self'; script-src 'self'")
        places = [word for word in content.decode().split('"') if word.startswith(("http:", "https:", "//"))]
        assert not [place for place in places if place != "http://www.w3.org/2000/svg"]


def test_pages_of_others_are_not_answered(served: Served, photographs: Path, gallery: Gallery) -> None:
    """Neither what another page posts, nor a name that was bent to this machine's address."""
    body = str(photographs / "coffee").encode()
    for path in ("/folder", "/upload?name=a.png", "/clear"):
        assert served.ask(path, body)[0] == 403
    assert gallery.entries() == []
    assert gallery.problems == {}
    assert served.ask("/", Host="evil.example")[0] == 400
    assert served.ask("/folder", body, Host="evil.example", **OWN)[0] == 400
    assert served.ask("/", Host="localhost:1234")[0] == 200


def test_other_machines_cannot_name_folders(gallery: Gallery, photographs: Path, tmp_path: Path) -> None:
    """Where they may ask at all."""
    with serving(make_site(gallery, tmp_path, public=True)) as address:
        public = Served(address)
        status, page = public.ask("/", Host="some.machine")
        assert status == 200
        assert "folder of this machine" not in page
        assert public.ask("/folder", str(photographs).encode(), **OWN)[0] in (404, 405)


def test_a_taken_port_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    """And so is a folder without images."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RuntimeError, match=rf"port must be free, got {port}, where another program listens"):
            serve(tmp_path / "no.ckpt", port=port)
    with pytest.raises(RuntimeError, match=r"host and port must be of this machine, got 203\.0\.113\.1:8000"):
        serve(tmp_path / "no.ckpt", host="203.0.113.1")
    with pytest.raises(ValueError, match="port must be from 0 to 65535, got 99999"):
        serve(tmp_path / "no.ckpt", port=99999)
    with pytest.raises(ValueError, match="images must be a folder with images, got none in"):
        serve(tmp_path / "no.ckpt", images=tmp_path)
    with pytest.raises(FileNotFoundError, match="images must be an existing folder"):
        serve(tmp_path / "no.ckpt", images=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no\.ckpt"):
        serve(tmp_path / "no.ckpt", port=0)
