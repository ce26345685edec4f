"""The program `edge-export`, also as `python -m export`."""

from edge.machine.early import ending_quietly

NEEDED = (
    "onnx",
    "onnx_ir",
    "ml_dtypes",
    "safetensors",
    "huggingface_hub",
    "gguf",
)  # modules of the extra `export`


def start() -> None:
    """Runs the command; raises UserError when a library is missing, as in a base install."""
    import importlib.util

    from edge.errors import UserError

    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"edge-export needs {', '.join(missing)}: install the extra edgetrace[export], in a clone with "
            "'make setup EXTRAS=export' or \"pip install '.[export]'\""
        )
    with ending_quietly():
        from export.app import app

    app()


def main() -> None:
    with ending_quietly():
        from edge.cli.guard import run_app

    run_app(start)


if __name__ == "__main__":
    main()
