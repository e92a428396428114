"""What Plots.ipynb needs besides the figures: the runs that it shows, in small pictures."""

import io
from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

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


def show_each(
    experiments: Mapping[str, Sequence[Run]], draw: Callable[[Sequence[Run]], Figure | None]
) -> None:
    """Show the figure that `draw` makes of each experiment, if it makes one, under its name."""
    from IPython.display import Markdown, display  # only here: nothing else needs it

    for name, runs in experiments.items():
        if draw(runs) is not None:
            display(Markdown(f"### {name}"))
            show()


def show() -> None:
    """Show the latest figure in 64 colours at a low resolution, which keeps the notebook small."""
    from IPython.display import Image, display
    from PIL import Image as Picture

    drawn, small = io.BytesIO(), io.BytesIO()
    plt.savefig(drawn, dpi=60)
    plt.close()
    picture = Picture.open(drawn).convert("RGB")
    picture = picture.quantize(64, Picture.Quantize.FASTOCTREE, dither=Picture.Dither.NONE)
    picture.save(small, "PNG", optimize=True)
    display(Image(small.getvalue()))
