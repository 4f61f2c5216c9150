from typing import Any, TypeAlias

import numpy as np
from _typeshed import ReadableBuffer, WriteableBuffer
from numpy.typing import NDArray

_Bytes: TypeAlias = ReadableBuffer | NDArray[Any]
_Out: TypeAlias = WriteableBuffer | NDArray[Any]
_Offsets: TypeAlias = NDArray[np.uint64]
_Numbers: TypeAlias = NDArray[np.int64]

def mark_prefixes(names: _Bytes, begin: _Offsets, end: _Offsets, prefix: _Bytes, out: _Out) -> None: ...
def mark_suffixes(
    names: _Bytes, begin: _Offsets, end: _Offsets, suffix: _Bytes, ignore_case: bool, out: _Out
) -> None: ...
def cut_stems(names: _Bytes, begin: _Offsets, end: _Offsets, stem: _Offsets) -> None: ...
def cut_folders(names: _Bytes, begin: _Offsets, end: _Offsets, folder: _Offsets, folder_end: _Offsets) -> None: ...
def number_parts(
    names: _Bytes, begin: _Offsets, end: _Offsets, among: _Numbers | None, number: _Numbers, first: _Numbers
) -> int: ...
