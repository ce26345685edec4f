"""The machine: its description, its sensors, and C code compiled on it.

- `device.describe`: board, processor and memory
- `device.available_memory`: memory that this process can still take
- `processors.usable_cores`: processors that this process may use
- `processors.ThreadCount`: threads for a model, fewer while other processes are busy
- `system`: small files below /proc and /sys, and control groups
- `telemetry.Sensors`: temperature, clock, power and memory during the work
- `boards`: readers for one kind of board
- `cooling.Cooling`: pauses while the machine is too hot
- `native.compiled`: a C source compiled on this machine and loaded
- `early.ending_quietly`: imports in which a signal ends the process
- `processes.starting`, `processes.ending`: processes that leave Ctrl-C to the command that starts them
"""
