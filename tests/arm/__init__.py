"""The aarch64 wheels under user-mode emulation: every traced column beside this machine's. `make test-arm`;
see docs/arm.md."""
