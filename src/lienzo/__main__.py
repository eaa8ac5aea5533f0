"""`python -m lienzo` is `lienzo`."""

from lienzo.cli import main

if __name__ == "__main__":
    main()
