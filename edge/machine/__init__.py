"""What this computer is and does.

- `device.describe`: board, processor and memory
- `device.available_memory`, `device.usable_cores`: what a process may use
- `telemetry.Sensors`, `telemetry.Cooling`: temperature, clock, power and memory while it works
- `native.compiled`: a C source compiled on this machine and loaded
"""
