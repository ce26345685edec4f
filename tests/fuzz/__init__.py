"""Seeded random mutations of every file that Edgetrace reads, through the commands that read it.

`python -m tests.fuzz --kind gguf --count 2000 --seed 0 --jobs 2 --out FOLDER` runs a long series. A case
must end with exit code 0, or with 2 and one sentence: no traceback, no signal, no hang.
"""
