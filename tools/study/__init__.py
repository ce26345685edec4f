"""The study of one model in several precisions: `python -m tools.study` (make study).

- `steps.commands`: what is run
- `results.read_study`: what the runs say
- `figures.draw`: the figures as SVG
- `page.write_page`: tables and figures as Markdown
"""
