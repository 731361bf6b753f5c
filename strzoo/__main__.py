"""`python -m strzoo`: the command line."""

from strzoo.cli import main

if __name__ == "__main__":
    main()
