"""`python -m fastdrop` prints the configuration; its commands measure speed and check results."""

import argparse
import sys

from fastdrop import show_config


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fastdrop", description="Show what fastdrop uses here, and how fast it is."
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("config", help="print the configuration (the default)")
    commands.add_parser("bench", help="compare with a copy and with NumPy, in under 20 seconds")
    commands.add_parser("selftest", help="check the results of this machine, in seconds")
    command = parser.parse_args().command
    if command == "bench":
        from fastdrop._bench import small_benchmark

        for line in small_benchmark():
            print(line, flush=True)
    elif command == "selftest":
        return _selftest()
    else:
        show_config()
    return 0


def _selftest() -> int:
    from fastdrop._selftest import selftest

    show_config()
    wrong = 0
    for checked, right in selftest():
        print(f"{'ok' if right else 'WRONG':<7}{checked}", flush=True)
        wrong += not right
    if wrong:
        print(f"{wrong} results differ from those of other machines: please report this")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
