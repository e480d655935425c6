"""python -m topoprior."""

import sys

from topoprior.cli import main

if __name__ == "__main__":
    sys.exit(main())
