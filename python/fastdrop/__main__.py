"""`python -m fastdrop` prints the configuration."""

from fastdrop import show_config

if __name__ == "__main__":
    show_config()
