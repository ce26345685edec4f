"""Jobs: the work behind the commands, done with a model.

- `run.run`: traces answers into a run directory
- `force.force`: traces a model on another run's tokens
- `score.score`: scores multiple choice
- `live.answer`: answers one question, token by token
- `bench.race`: times artifacts side by side
- `doctor.examine`: checks what can run on this machine
- `session.trace`: the loop that `run` and `force` share, from items to a run directory
- `item.Item`: a question with its prompt and the tokens to force
- `exact.FullModel`: the full-precision model, stepped beside the forced one
- `multiple_choice`: the choices of each task, and their scores
- `decode.decode`, `decode.DecodeSettings`: the token loop, and how tokens are chosen
- `interrupt.stop_on_signal`: stopping on SIGINT and SIGTERM
"""
