"""Draw and tabulate the runs below a folder.

python -m figures Experiments/demo     # figure2.png in that folder, and a table
"""

import sys
from pathlib import Path

from figures import plt, report
from utils import user_errors

if __name__ == "__main__":
    with user_errors("figures"):
        plt.switch_backend("agg")
        report(Path(sys.argv[1] if len(sys.argv) > 1 else "Experiments"))
