"""`python -m mini COMMAND`: one command per step; `make mini` runs them in order."""

import argparse
import importlib
import sys

# Commands and their modules. Only the module of the command that runs is loaded: listening needs packages that nothing
# else does.
COMMANDS = {
    "corpus": "corpus",
    "train-hearing": "train_hearing",
    "train-speaking": "train_speaking",
    "train-flow": "train_flow",
    "train-vocoder": "train_vocoder",
    "export": "export",
    "judge": "judge_engine",
    "judge-written": "judge_written",
    "judge-voice": "judge_voice",
    "judge-human": "judge_human",
    "curves": "curves",
    "example": "example",
}


def main(arguments: list[str]) -> int:
    """Runs one step with the rest of the command line."""
    choice = argparse.ArgumentParser(prog="python -m mini", description=__doc__)
    choice.add_argument("command", choices=COMMANDS)
    command = choice.parse_args(arguments[:1]).command
    module = importlib.import_module(f"mini.{COMMANDS[command]}")
    parser = argparse.ArgumentParser(prog=f"python -m mini {command}", description=module.__doc__)
    module.add_arguments(parser)
    return module.run(parser.parse_args(arguments[1:]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
