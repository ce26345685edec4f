"""The program `edge`, also as `python -m edge`."""

from edge.machine.early import ending_quietly


def start() -> None:
    """Imports the commands and runs the one that is asked for."""
    with ending_quietly():
        from edge.cli.app import app

    app()


def main() -> None:
    with ending_quietly():
        from edge.cli.guard import run_app

    run_app(start)


if __name__ == "__main__":
    main()
