"""``python -m atlas``: the command line, where its script is not on the PATH."""

from atlas.cli.main import main

if __name__ == "__main__":
    main()
