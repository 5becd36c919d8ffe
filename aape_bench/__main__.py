"""`python -m aape_bench`, the same as the command `aape-bench`."""

from aape_bench.cli import main

main()
