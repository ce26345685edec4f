"""What runs say, from their directories alone: nothing here loads a model.

- `dynamics.describe`, `dynamics.classify`: one run, and its class
- `divergence.compare`, `artifacts.compare_artifacts`: quantised against full precision
- `study.study`: a run with its outcomes, as the paper studies it
- `paper.analyse_paper`, `published.published`: the paper's tables, for a run and as published
- `truth.analyse_truth`, `truth.compare_truth`: whether metrics tell untrue answers
- `agreement.agreement`: raters
- `export.tables`, `export.write_tables`: all of it as tables
"""
