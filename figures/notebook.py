"""What Plots.ipynb needs besides the figures: the runs that it shows, in small pictures."""

import io

from figures.report import NO_RUNS
from figures.style import plt
from runs import Run, find_experiments


def experiments_in(root: str) -> dict[str, list[Run]]:
    """The experiments in a folder by name or, as long as there are none, those in results/."""
    experiments = find_experiments(root)
    if not experiments:
        print(NO_RUNS.format(root=root))
        print("Until then this page shows the runs in results/.")
    return experiments or find_experiments("results")


def show() -> None:
    """Show the latest figure in 32 colours at a low resolution, which keeps the notebook small."""
    from IPython.display import display  # only here: nothing else needs it
    from PIL import Image

    picture = io.BytesIO()
    plt.savefig(picture, dpi=60)
    plt.close()
    image = Image.open(picture).convert("RGB")
    display(image.quantize(32, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
