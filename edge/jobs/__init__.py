"""What answers questions with a model.

- `run.run`: answers into a run directory
- `force.force`: a model on another run's tokens
- `score.score`: multiple choice
- `live.answer`: one answer as it comes
- `bench.race`: artifacts beside one another
- `doctor.examine`: what can run here
- `decode.DecodeSettings`: how tokens are chosen
"""
