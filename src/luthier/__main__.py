"""`python -m luthier`: the same as `luthier`."""

from luthier.cli.main import main

main()
