"""One HTML file that shows what runs say: opens offline, asks no server for anything.

- `write.write_report`: writes it
"""
