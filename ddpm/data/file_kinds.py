"""Kinds of files in an image folder by name: unsupported images, other files, system files."""

import re

from ddpm.runs.results import KINDS

# Extensions of images, videos and archives that are not supported.
UNREAD = frozenset(
    [
        ".heic",
        ".heif",
        ".hif",
        ".jxl",
        ".svg",
        ".svgz",
        ".psd",
        ".psb",
        ".xcf",
        ".kra",
        ".ai",
        ".eps",
        ".ps",
        ".pdf",
        ".raw",
        ".dng",
        ".cr2",
        ".cr3",
        ".crw",
        ".nef",
        ".nrw",
        ".arw",
        ".srf",
        ".sr2",
        ".orf",
        ".raf",
        ".rw2",
        ".pef",
        ".srw",
        ".x3f",
        ".3fr",
        ".iiq",
        ".exr",
        ".hdr",
        ".pfm",
        ".dds",
        ".icns",
        ".cur",
        ".wmf",
        ".emf",
        ".xbm",
        ".xpm",
        ".fits",
        ".fit",
        ".dcm",
        ".nii",
        ".djvu",
        ".mp4",
        ".mov",
        ".avi",
        ".mkv",
        ".webm",
        ".m4v",
        ".mpg",
        ".mpeg",
        ".wmv",
        ".flv",
        ".zip",
        ".tar",
        ".tgz",
        ".gz",
        ".7z",
        ".rar",
        ".npz",
        ".npy",
        ".lmdb",
        ".tfrecord",
        ".parquet",
        ".h5",
        ".hdf5",
        ".mat",
    ]
)


# Extensions of other files, which are never opened.
OTHER = frozenset(
    [
        ".txt",
        ".json",
        ".jsonl",
        ".csv",
        ".tsv",
        ".xml",
        ".yaml",
        ".yml",
        ".toml",
        ".md",
        ".rst",
        ".html",
        ".htm",
        ".css",
        ".js",
        ".py",
        ".ipynb",
        ".sh",
        ".log",
        ".ini",
        ".cfg",
        ".db",
        ".sqlite",
        ".pt",
        ".pth",
        ".ckpt",
        ".safetensors",
        ".onnx",
        ".wav",
        ".mp3",
        ".flac",
        ".ogg",
        ".doc",
        ".docx",
        ".xls",
        ".xlsx",
        ".ppt",
        ".pptx",
        ".url",
        ".lnk",
        ".exe",
        ".dll",
        ".so",
        ".tmp",
        ".part",
        ".crdownload",
        ".download",
        ".partial",
        ".lock",
        ".md5",
        ".sha256",
        ".sum",
        ".names",
        ".caption",
        ".xmp",
        ".aae",
        ".thm",
        ".pkl",
        ".pickle",
        ".bin",
        ".idx",
    ]
)


# Folders that systems and programs create: thumbnails, recycle bins, metadata of archives.
SYSTEM = frozenset(
    (
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "@tmp",
        "@sharebin",
        "@sharesnap",
        "@snapshot",
        "@__thumb",
        "#recycle",
        "#snapshot",
        "#sharesnap",
        "~snapshot",
        "$recycle.bin",
        "recycler",
        "recycled",
        "system volume information",
        "__macosx",
        "lost+found",
        "found.000",
        "network trash folder",
        "temporary items",
        "__pycache__",
    )
)


HIDDEN = (".", "synofile_thumb", "~$")  # name prefixes of hidden and temporary files


SHEETS = ("grid.png", "pairs.png", "preview.png", "strip.png", "sheet.png")  # many samples in one image


OF_A_RUN = frozenset({*KINDS, "saves", "tb"})


MANY = {  # skipped entries: singular and plural
    "hidden file": "hidden files",
    "hidden folder": "hidden folders",
    "link that leads nowhere": "links that lead nowhere",
    "link to a folder that is listed already": "links to folders that are listed already",
    "file that cannot be looked at": "files that cannot be looked at",
    "pipe, socket or device": "pipes, sockets and devices",
    "sheet of samples": "sheets of samples",
}


KIND = re.compile(r"\.[a-z][a-z0-9]{0,9}")  # an extension, not the rest of a name that contains a dot


UNNAMED = ""  # the kind of a file without extension
