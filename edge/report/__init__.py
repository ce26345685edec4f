"""The report of runs: one HTML file that opens offline and asks no server for anything.

- `write.write_report`: writes it
"""
