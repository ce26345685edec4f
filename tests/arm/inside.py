"""Runs under the emulator: several `edge` commands in one process, since starting one costs seconds
there."""

from __future__ import annotations

import json
import sys

from edge.cli.app import app

if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        app(arguments, standalone_mode=False)
