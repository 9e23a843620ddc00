"""``python -m bigmm`` is the command line."""

from bigmm.cli import main

if __name__ == "__main__":  # the processes of a local cluster import this module again
    main()
