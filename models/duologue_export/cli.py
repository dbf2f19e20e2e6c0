"""Command line of the exporter: one module per subcommand, each with `add_arguments(parser)` and `run(args) -> exit
code`."""

import argparse
import importlib
import sys

from duologue_export import __version__
from duologue_export.errors import ExportError

# name -> (module, one-line help); modules are imported only when their subcommand is chosen, because torch loads
# slowly.
COMMANDS = {
    "export": ("duologue_export.export", "checkpoint -> bundle"),
    "verify": ("duologue_export.verify", "compare every graph of a bundle with PyTorch"),
    "tiny": ("duologue_export.tiny", "write a small random checkpoint of the true structure"),
    "validate": ("duologue_export.validate", "run image, text and speech through a checkpoint"),
    "ops": ("duologue_export.ops", "check every operator of a bundle against the CUDA kernel list"),
}


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script. Expected failures (`ExportError`, `OSError`) become one line on stderr and
    exit code 1."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="duologue-export", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    chosen = next((word for word in argv if word in COMMANDS), None)
    module = None
    for name, (path, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            module = importlib.import_module(path)
            module.add_arguments(command)
    args = parser.parse_args(argv)
    try:
        return module.run(args)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # A full disk or a folder without permission is the user's to mend; the stack trace would only hide the name.
        where = error.filename or f"{args.command} could not read or write a file"
        print(f"error: {where}: {error.strerror or error}.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
