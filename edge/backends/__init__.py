"""A model that can be stepped, whichever library runs it.

- `base.Backend`, `base.Runtime`: the interface of a backend, and the choices of how it runs
- `gguf_file.open_artifact`: an artifact folder or a GGUF file
- `runtime.Loader`, `runtime.open_backend`: the backend that runs an artifact
- `memory.check_memory`: whether it fits
- `tokenizer.open_tokenizer`: text to token ids and back
"""
