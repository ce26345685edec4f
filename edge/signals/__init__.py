"""What one forward pass says, position by position.

- `taps.Taps`: what a pass leaves
- `definitions.output_signals`, `definitions.attention_signals`, `definitions.hidden_signals`: each metric's
  definition in numpy
- `compiled.compiled_code`: their twins in C
- `reader.SignalReader`: the signals of an answer, by whichever is there
- `streaming.AnswerStatistics`: statistics of an answer as it comes
"""
