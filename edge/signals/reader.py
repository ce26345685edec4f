"""The signals of an answer, position by position, by compiled code where it is there and by numpy where it
is not."""

from __future__ import annotations

import numpy as np

from edge.artifact import ModelSpec
from edge.signals.compiled import compiled_code
from edge.signals.definitions import (
    AttentionSignals,
    HiddenSignals,
    OutputSignals,
    Scratch,
    Signals,
    attention_signals,
    hidden_signals,
    output_signals,
)
from edge.signals.taps import Array, Taps


class SignalReader:
    """Reduces the taps of one answer, position by position; remembers the last residual stream for the
    drift."""

    def __init__(self, spec: ModelSpec) -> None:
        self._code = compiled_code().code
        self._scratch = Scratch()
        self._last = np.empty((spec.layers + 1, spec.hidden), np.float32)
        self._has_last = False

    def reset(self) -> None:
        """Starts a new answer: its first row has no previous position."""
        self._has_last = False

    def read(self, taps: Taps) -> Signals:
        """Signals of the pass that left these taps, arrays of their own."""
        attention = None if taps.attention is None else self._attention(taps.attention)
        hidden = None if taps.hidden is None else self._hidden(taps.hidden)
        return Signals(self.output(taps.logits), attention, hidden)

    def output(self, logits: Array) -> OutputSignals:
        """Signals of logits [V] alone."""
        if self._code and in_one_piece(logits):
            return self._code.output(logits)
        return output_signals(logits, self._scratch)

    def _attention(self, rows: Array) -> AttentionSignals:
        if self._code and rows.dtype == np.float32 and rows.strides[2] == rows.itemsize:
            return self._code.attention(rows, self._scratch)
        return attention_signals(rows, self._scratch)

    def _hidden(self, streams: Array) -> HiddenSignals:
        if self._code and in_one_piece(streams) and streams.shape == self._last.shape:
            signals = self._code.hidden(streams, self._last, has_before=self._has_last)
        else:
            signals = hidden_signals(streams, self._last if self._has_last else None, self._scratch)
            np.copyto(self._last, streams)
        self._has_last = True
        return signals


def in_one_piece(array: Array) -> bool:
    return array.dtype == np.float32 and array.flags.c_contiguous
