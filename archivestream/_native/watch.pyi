from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

@final
class Watch:
    def __new__(
        cls, files: Sequence[tuple[int, int, int, bool]], first_member: NDArray[np.uint64], held: object
    ) -> Self: ...
    def changed(self, members: NDArray[np.int64]) -> int: ...
    def changed_one(self, member: int) -> int: ...
