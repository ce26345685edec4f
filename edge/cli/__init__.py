"""The command lines: parse, call, print. Empty, since `export` uses `edge.cli.common`."""
