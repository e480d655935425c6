"""The quick comparison: `experiments.posteriors.quick`, as one command.

python experiments/compare_priors.py --help
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees only its own folder

from experiments.posteriors.quick import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
