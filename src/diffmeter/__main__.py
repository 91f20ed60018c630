"""``python -m diffmeter`` is the ``diffmeter`` command."""

from diffmeter.cli import main

if __name__ == "__main__":
    main()
