"""`python -m ctplatform` is the command `drasclr`."""

from ctplatform.cli.main import main

if __name__ == "__main__":
    main()
