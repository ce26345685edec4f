"""A run on disk: written in whole parts, resumed, merged, judged and followed.

- `run_directory.Run`, `run_directory.RunWriter`: reading and writing
- `manifest.RunManifest`, `manifest.read_manifest`, `records.RunSettings`: what run.json says, typed
- `record.AnswerRecord`, `record.PartBuffer`: from steps to rows
- `disk.check_disk`: whether a run fits
- `score_directory.ScoreWriter`: what `edge score` keeps
- `merge.merge`: shards as one run
- `outcomes.read_outcomes`, `outcomes.save`: how answers were judged
- `watch.Follower`: a run that another process writes
"""
