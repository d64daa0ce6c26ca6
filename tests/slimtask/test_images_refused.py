"""Image files that are hostile or damaged: refused in one sentence before they can do anything."""

from __future__ import annotations

import ast
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimtask.errors import InputError
from slimtask.images import MAX_PIXELS, read_rgb, shown

ROOT = Path(__file__).parents[2]


def noise(height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, channels), dtype=np.uint8)


def refused(path: Path | str, what: str) -> str:
    """Return the sentence, which is one and says ``what``; nothing else is said, not even as a warning."""
    with warnings.catch_warnings(record=True) as said, pytest.raises(InputError, match=what) as failure:
        warnings.simplefilter("always")
        read_rgb(path)
    assert said == []
    sentence = str(failure.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    assert failure.value.exit_status == 2
    return sentence


def png_of(width: int, height: int, *, bits: int = 8, kind: int = 2) -> bytes:
    """Return a PNG that states a size and has no pixels to speak of."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n(MARK) (w) file closefile\nshowpage\n%%EOF\n"
)


@pytest.mark.parametrize("name", ["photo.png", "photo.eps", "photo.jpg", "photo"])
def test_postscript_reaches_no_interpreter_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / name).write_bytes(POSTSCRIPT.replace(b"MARK", str(tmp_path / "ran").encode()))
    refused(tmp_path / name, "of a kind that is not read; give a PNG, JPEG, BMP, TIFF or WebP file")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["gif", "ppm", "tga", "pcx", "ico", "jp2", "sgi", "dds", "pdf", "spider"])
def test_other_kinds_are_refused_under_the_name_of_one_that_is_read(tmp_path: Path, kind: str) -> None:
    plugin = {"jp2": "JPEG2000"}.get(kind, kind.upper())
    content = io.BytesIO()
    image = Image.fromarray(noise(16, 16))
    (image.convert("F") if kind == "spider" else image).save(content, format=plugin)
    (tmp_path / "a.png").write_bytes(content.getvalue())
    refused(tmp_path / "a.png", "of a kind that is not read")


def test_only_one_place_opens_images() -> None:
    found = []
    for stage in ("kernels", "compress", "train", "export", "bench", "slimtask"):
        for path in (ROOT / stage).rglob("*.py"):
            if stage == "slimtask" and path.resolve().relative_to(ROOT).parts[0] != "slimtask":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                    assert any(keyword.arg == "formats" for keyword in node.keywords), path
                    found.append(str(path.relative_to(ROOT)))
    # a study reads the archive that its command names; pictures.py opens what Matplotlib has just drawn, in memory
    assert sorted(found) == ["bench/studies/realised/images.py", "export/pictures.py", "slimtask/images.py"]


def test_an_image_too_large_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    for width, height in ((9400, 9400), (8193, 8192), (MAX_PIXELS + 1, 1), (13000, 13000), (2**30, 2**30)):
        (tmp_path / "a.png").write_bytes(png_of(width, height))
        refused(tmp_path / "a.png", r"more pixels than the 67,108,864 \(8192 x 8192\) that are read; make it smaller")
    (tmp_path / "a.bmp").write_bytes(
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 20000, 20000, 1, 24, *[0] * 6)
    )
    refused(tmp_path / "a.bmp", "more pixels than")


def test_the_limit_holds_whatever_pillows_is_and_leaves_pillows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "a.png").write_bytes(png_of(9400, 9400))
    assert "has 9400 x 9400 pixels (width x height), more" in refused(tmp_path / "a.png", "make it smaller")
    assert Image.MAX_IMAGE_PIXELS is None


def test_the_tiles_of_a_tiff_are_pixels_too(tmp_path: Path) -> None:
    tags = {256: 4, 257: 4, 258: 8, 259: 8, 262: 1, 277: 1, 322: 32000, 323: 32000, 324: 8, 325: 50}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + b"\0" * 99)
    refused(tmp_path / "a.tif", "has tiles of more pixels than")


def test_a_jpeg_of_endless_scans_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (1024, 1024), 90).save(tmp_path / "a.jpg", progressive=True)
    assert (read_rgb(tmp_path / "a.jpg") == 90).all()
    content = (tmp_path / "a.jpg").read_bytes()
    scan = content[content.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(content[:-2] + 5000 * scan + content[-2:])
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    refused(tmp_path / "a.jpg", "goes over its pixels 5006 times, more often than is read; save it anew")


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for path, what in (
        (tmp_path, "is a folder, not a file"),
        (tmp_path / "pipe.png", "is a pipe or device, not a file"),
        (tmp_path / "link.png", "is a pipe or device, not a file"),
        (tmp_path / "loop.png", "cannot be read"),
        ("/dev/zero", "is a pipe or device, not a file"),
        (tmp_path / "none.png", r"none\.png' does not exist; check the path"),
        (tmp_path / "none.png" / "a.png", "does not exist"),
        ("a\0b.png", r"'a\\x00b\.png' cannot be read"),
        ("", "does not exist"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (tmp_path / "a\n\x1b[31m.png", r"a\\n\\x1b\[31m\.png' does not exist"),
        (os.fsdecode(b"\xff.png"), r"\\udcff\.png' does not exist"),
    ):
        reader = threading.Thread(target=refused, args=(path, what), daemon=True)
        reader.start()
        reader.join(10)
        assert not reader.is_alive(), path
        refused(path, what)


def test_a_file_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(png_of(4, 4))
        file.truncate(2**40)  # takes no room on the disk
    refused(tmp_path / "a.png", r"has 1,099,511,627,776 bytes, more than the 1,073,741,824")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(noise(40, 40)).save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    for length in (0, 1, 7, 20, 60, len(content) // 2, len(content) * 9 // 10):
        (tmp_path / f"a.{suffix}").write_bytes(content[:length])
        refused(tmp_path / f"a.{suffix}", "is damaged")


@pytest.mark.parametrize(
    "content", [b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\xff\xd8\xff\xe0", b"\0" * 5000]
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "is damaged or")


CHANGED = """
import sys, numpy as np
from slimtask.errors import InputError
from slimtask.images import read_rgb
read, path = 0, sys.argv[1] + "/changed"
for name in ("a.png", "a.jpg", "a.bmp", "lzw.tif", "jpeg.tif", "deflate.tif", "a.webp"):
    whole = open(sys.argv[1] + "/" + name, "rb").read()
    rng = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(0, min(len(content), 400), 4):
            content[place] = rng.integers(256)
        open(path, "wb").write(content)
        try:
            pixels = read_rgb(path)
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            read += 1
        except InputError as error:
            assert "\\n" not in str(error)
print(read > 0, not [name for name in sys.modules if name.split(".")[0] == "torch"])
"""


def test_no_library_says_a_word_on_changed_files_and_torch_is_not_needed(tmp_path: Path) -> None:
    image = Image.fromarray(noise(40, 40))
    for name in ("a.png", "a.jpg", "a.bmp", "a.webp"):
        image.save(tmp_path / name)
    for name, how in (("lzw", "tiff_lzw"), ("jpeg", "jpeg"), ("deflate", "tiff_adobe_deflate")):
        image.save(tmp_path / f"{name}.tif", compression=how)
    done = subprocess.run(
        [sys.executable, "-c", CHANGED, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_threads_read_side_by_side_and_leave_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    before, wrong = list(warnings.filters), []

    def read() -> None:
        wrong.extend(1 for _ in range(50) if not np.array_equal(read_rgb(tmp_path / "a.png"), noise()))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert warnings.filters == before


def test_a_path_is_shown_on_one_line() -> None:
    assert shown("Straße 7/ü.png") == "Straße 7/ü.png"
    assert shown("/a/" + "x" * 9000 + ".png").endswith("xxx.png")
    assert len(shown("/a/" + "x" * 9000 + ".png")) < 250
    assert shown("a\tb\u202e\x07") == "a\\tb\\u202e\\x07"
