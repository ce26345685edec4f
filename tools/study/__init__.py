"""The study of one model in several precisions: `python -m tools.study` (make study).

- `steps.commands`: what is run
- `results.read_study`: what the runs say
- `figures.draw`: the figures as SVG
- `tables`: one function for each table
- `page.whole_page`, `page.fill`: tables and figures as Markdown
"""
