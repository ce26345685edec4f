"""A run on disk: written in whole parts, resumed, merged, judged and watched.

- `run_directory.Run`, `run_directory.RunWriter`: reading and writing
- `manifest.RunManifest`, `manifest.read_manifest`: run.json
- `provenance`: the parts of run.json and score.json that decide the rows
- `record.AnswerRecord`, `record.PartBuffer`: rows made from steps
- `columns`, `parts`: the tables' columns, and their Parquet files
- `job_directory.JobDirectory`: the lock and the resuming that runs and scores share
- `disk.check_disk`: room on the disk
- `score_directory.ScoreWriter`: the scores of `edge score`
- `merge.merge`: shards put together as one run
- `outcomes.read_outcomes`, `outcomes.save`: judgements of the answers
- `sheets.export_csv`, `sheets.import_csv`: judgements in a spreadsheet
- `sessions.Session`, `sessions.cautions`: which machine and versions answered which questions
- `watch.Follower`: a run that another process writes
"""
