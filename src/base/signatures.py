"""What a file is, by its first bytes, and what to do with one that is neither a photo nor weights."""

import re

PHOTO_PLUGINS = {"HEIF": "pillow_heif", "JXL": "pillow_jxl"}
"""Modules that teach Pillow another format, by its name; they are in requirements-optional.txt, and used where they are
installed."""

_CONVERT = "convert it to JPEG or PNG"
_AGAIN = "get the file itself again"
_DEVELOP = "develop it to JPEG or PNG"
_HEIC = ("HEIC", f"{_CONVERT}, or pip install pillow-heif")
_JPEG_XL = ("JPEG XL", f"{_CONVERT}, or pip install pillow-jxl-plugin")
_VIDEO = ("a video", "give a photo, such as one of its frames")
_ARCHIVE = ("an archive", "unpack it")

_BRANDS = {
    rb"hei[cxms]|hev[cxms]|mif[12]|msf1|mif3": _HEIC,
    rb"avi[fso]": ("AVIF", f"{_CONVERT}, or install a Pillow that reads it"),
    rb"crx ": ("a raw photo of Canon", _DEVELOP),
    rb"jp[2xm] |mjp2": ("JPEG 2000", f"it is damaged: {_AGAIN}"),
    rb"isom|iso[2-9]|mp4[12]|avc1|qt  |M4[AV] |M4VP|3g[p2].|MSNV|dash|f4v ": _VIDEO,
}
"""Of the ISO base media format, whose first box names the brand at byte 8."""

_SIGNATURES: tuple[tuple[bytes, tuple[str, str]], ...] = (
    (rb"\xff\x0a|\0\0\0\x0cJXL ", _JPEG_XL),
    (rb"FUJIFILMCCD-RAW", ("a raw photo of Fujifilm", _DEVELOP)),
    (rb"II\x2a\0....CR", ("a raw photo of Canon", _DEVELOP)),
    (rb"II.{4}HEAPCCDR", ("a raw photo of Canon", _DEVELOP)),
    (rb"IIR[OS]|MMOR", ("a raw photo of Olympus", _DEVELOP)),
    (rb"IIU\0", ("a raw photo of Panasonic", _DEVELOP)),
    (rb"\0MRM", ("a raw photo of Minolta", _DEVELOP)),
    (rb"FOVb", ("a raw photo of Sigma", _DEVELOP)),
    (rb"II\xbc", ("JPEG XR", _CONVERT)),
    (rb"BPG\xfb", ("BPG", _CONVERT)),
    (rb"qoif", ("QOI", _CONVERT)),
    (rb"8BPS", ("a Photoshop document", _CONVERT)),
    (rb"gimp xcf", ("a GIMP document", _CONVERT)),
    (rb"\x76\x2f\x31\x01|#\?RADIANCE", ("a picture of high dynamic range", _CONVERT)),
    (rb"SIMPLE  =", ("FITS", _CONVERT)),
    (rb"\0\0\x01\0[^\0]\0", ("an icon", _CONVERT)),
    (rb".{128}DICM", ("DICOM", _CONVERT)),
    (rb"%PDF", ("PDF", "export its picture as JPEG or PNG")),
    (rb"%!PS|\xc5\xd0\xd3\xc6", ("PostScript", _CONVERT)),
    (rb"\x89HDF", ("HDF5", "export what is in it")),
    (rb"\x93NUMPY", ("an array of NumPy", "export what is in it")),
    (rb"RIFF....AVI |\x1a\x45\xdf\xa3|FLV\x01|\0\0\x01[\xb3\xba]", _VIDEO),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|.{257}ustar", _ARCHIVE),
    (rb"\0\x05\x16[\0\x07]", ("a companion that macOS keeps beside a file", "leave it out")),
    (rb"bplist|book\0\0\0\0mark\0", ("a placeholder of macOS", _AGAIN)),
    (rb"version https://git-lfs", ("a pointer of Git LFS", "git lfs pull gets the file itself")),
    (rb"(?:\.\./)*\.git/annex/|/annex/objects/", ("a pointer of git-annex", "git annex get gets the file itself")),
    (rb"(?:[^\xef]{0,3}\xef\xbf\xbd){3}|\xef\xbf\xbdPNG", ("a file that was once saved as text", _AGAIN)),
    (rb"/9j/|iVBORw0KGgo|data:image/", ("a picture in base64", "decode it")),
    (rb"\s*(?:<\?xml.{0,2000})?(?:<!--.{0,2000})?(?:<!DOCTYPE svg.{0,2000})?<svg", ("SVG", f"{_CONVERT}")),
    (rb"\s*(?:<!--.{0,2000})?<(?:!doctype html|html|head|body|script|meta)", ("a web page", f"{_AGAIN}, logged in")),
    (rb"\s*<\?xml", ("XML, often the answer of a server", _AGAIN)),
    (rb"\s*[{\[]\s*[\"{\[]", ("JSON, often the answer of a server", _AGAIN)),
)
"""Patterns of a file's beginning, with what it is and what to do; the first one that fits holds."""


def known_format(content: bytes) -> tuple[str, str] | None:
    """What the file is and what to do about it, in words; None where its beginning tells nothing.

    content: the file, or its first 4096 bytes at least.
    """
    head = content[:4096].removeprefix(b"\xef\xbb\xbf")
    if head and not head.strip(b"\0"):
        return "empty space, as of a download that broke off", _AGAIN
    if head[4:8] == b"ftyp":
        end = max(12, min(int.from_bytes(head[:4]), 256))
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
        for brand in brands:
            for pattern, named in _BRANDS.items():
                if re.fullmatch(pattern, brand, re.DOTALL):
                    return named
        return f"a file of the brand {head[8:12].decode('latin-1')!r}", _CONVERT
    for pattern, named in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return named
    return None
