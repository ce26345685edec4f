"""The machine: its description, its sensors, and C code compiled on it.

- `device.describe`: board, processor and memory
- `device.available_memory`, `device.usable_cores`: memory and cores that a process may use
- `telemetry.Sensors`: temperature, clock, power and memory during the work
- `boards`: readers for one kind of board
- `cooling.Cooling`: pauses while the machine is too hot
- `native.compiled`: a C source compiled on this machine and loaded
- `early.ending_quietly`: imports in which a signal ends the process
- `processes.starting`, `processes.ending`: processes that leave Ctrl-C to the command that starts them
"""
