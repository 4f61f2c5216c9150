"""What files hold, by their extensions: the one table of them, and the types of all members of an archive at once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from archivestream.selection import Names

__all__ = ["EXTENSIONS", "FileType", "number_types"]


class FileType(NamedTuple):
    """What a file of some extension holds.

    Attributes
    ----------
    name : str
        The type, as `archivestream.Archive.by_type` has it.
    decoder : str or None
        The name of the decoder that ``decode="auto"`` takes; None leaves the bytes as they are.
    """

    name: str
    decoder: str | None


_IMAGES = "bmp gif jfif jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp"

_TABLE = (
    ("image", "image", _IMAGES),
    ("image", None, "avif dcm dng exr heic heif ico jp2 jxl svg tga"),
    ("audio", "audio", "aiff flac mp3 oga ogg opus wav"),
    ("audio", None, "aac aif m4a wma"),
    ("video", None, "avi m4v mkv mov mp4 mpeg mpg webm wmv"),
    ("table", "csv", "csv"),
    ("table", "tsv", "tsv"),
    ("table", None, "arrow feather orc parquet xls xlsx"),
    ("array", "numpy", "npy"),
    ("array", "npz", "npz"),
    ("array", None, "h5 hdf5 mat nii safetensors"),
    ("json", "json", "jsn json"),
    ("json", None, "geojson jsonl ndjson"),
    ("text", "text", "text transcript txt"),
    ("text", None, "htm html log md rst srt vtt xml yaml yml"),
    ("number", "int", "class cls cls2 count id index inx"),  # WebDataset's, as are those of text
    ("pickle", None, "joblib pickle pkl pt pth pyd"),
)
# In lower case, without the dot in front.
EXTENSIONS: Mapping[str, FileType] = MappingProxyType(
    {extension: FileType(name, decoder) for name, decoder, extensions in _TABLE for extension in extensions.split()}
)
_OTHER = "other"


def number_types(names: Names) -> tuple[NDArray[np.int64], list[str]]:
    """Return the types of some names, by what stands behind the last dot.

    Returns
    -------
    number : ndarray of int64, shape (n,)
        Of the type of each name.
    types : list of str
        All types there are.
    """
    types = [*dict.fromkeys(one.name for one in EXTENSIONS.values()), _OTHER]
    place = {name: number for number, name in enumerate(types)}
    number, extensions = names.extensions()
    found = [EXTENSIONS.get(extension.rpartition(".")[2]) for extension in extensions]
    of_extension = np.array([place[_OTHER if one is None else one.name] for one in found], np.int64)
    return of_extension[number], types
