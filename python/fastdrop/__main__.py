"""`python -m fastdrop` prints the configuration, `python -m fastdrop bench` measures the speed."""

import argparse

from fastdrop import show_config


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fastdrop", description="Show what fastdrop uses here, and how fast it is."
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("config", help="print the configuration (the default)")
    commands.add_parser("bench", help="compare with a copy and with NumPy, in under 20 seconds")
    if parser.parse_args().command == "bench":
        from fastdrop._bench import small_benchmark

        for line in small_benchmark():
            print(line, flush=True)
    else:
        show_config()


if __name__ == "__main__":
    main()
