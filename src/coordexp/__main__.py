"""`python -m coordexp` is the same program as the `coordexp` command."""

from coordexp.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
