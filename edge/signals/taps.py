"""What a forward pass leaves for the signals: logits, attention rows, hidden states."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
# Numbers of a float32 buffer from which numpy asks the kernel for huge pages. A pass over the weights throws
# every address translation out, so that buffers used once a token are slow to get at in small pages:
# measured, a third of the tapping time.
HUGE = 1 << 20


class Taps(NamedTuple):
    """What one forward pass left at its last position: views of buffers that the next pass overwrites.

    logits [V]; attention [L, H, K], the last query's row over the K = position + 1 keys, zero outside a
    window; hidden [L+1, D], the residual stream before layer 1 and after each layer, the last one before the
    final norm. attention and hidden are None for an artifact without taps. `position` is 0-based.
    """

    position: int
    logits: Array
    attention: Array | None
    hidden: Array | None
