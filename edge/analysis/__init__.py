"""Analysis of runs from their directories. Nothing here loads a model.

- `loops.loops`: whether an answer ends in repeating itself
- `dynamics.describe`, `classes.classify`: one run, and its class
- `intervals.bootstrap`, `intervals.share`: means and shares over questions with their 95% intervals
- `divergence.compare`, `artifacts.compare_artifacts`: quantised against full precision
- `noise_floor.noise_floor`: the KL that rounding alone makes
- `study.study`: a run with its outcomes, as the paper studies it
- `paper.analyse_paper`, `published.published`: the paper's tables, for a run and as published
- `scores.scores_of`, `truth.analyse_truth`: whether metrics tell untrue answers from true ones
- `auroc_change.compare_truth`: how well the scores of two runs do that
- `agreement.agreement`: agreement between raters
- `export.tables`, `export.write_tables`: all results as tables
- `plain.plain`: results as values that JSON holds
"""
