"""What answers questions with a model.

- `run.run`: answers into a run directory
- `force.force`: a model on another run's tokens
- `score.score`: multiple choice
- `live.answer`: one answer as it comes
- `bench.race`: artifacts beside one another
- `doctor.examine`: what can run here
- `session.trace`: the loop that they share, from items to a run directory
- `decode.decode`, `decode.DecodeSettings`: the token loop, and how tokens are chosen
- `interrupt.stop_on_signal`: stopping on SIGINT and SIGTERM
"""
