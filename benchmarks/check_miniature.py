"""Says what a miniature can do: how well its VAE reconstructs, text-to-image as the readers of the world see it, and
how far what is drawn follows a control image.

    python benchmarks/check_miniature.py [FOLDER] [--sheets FOLDER]

A minute or two on two CPU cores.
"""

import argparse
from pathlib import Path

import torch
from training.checks import print_accuracy, print_control, print_reconstruction

from tav_core.demo.miniature import MINIATURE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=MINIATURE)
    parser.add_argument("--sheets", type=Path, default=Path("."), help="where to write pictures of what was drawn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--captions", type=int, default=96)
    options = parser.parse_args()
    options.sheets.mkdir(parents=True, exist_ok=True)
    print_reconstruction(options.folder, options.device)
    print_accuracy(options.folder, options.sheets, options.device, options.captions)
    for kind in ("pose", "depth"):
        print_control(options.folder, options.sheets, kind, options.device)


if __name__ == "__main__":
    main()
