"""What this computer is and does.

- `device.describe`: board, processor and memory
- `device.available_memory`, `device.usable_cores`: what a process may use
- `telemetry.Sensors`: temperature, clock, power and memory while it works
- `boards`: what one kind of board gives in its own way
- `cooling.Cooling`: pauses while it is too hot
- `native.compiled`: a C source compiled on this machine and loaded
"""
