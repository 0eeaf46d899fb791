"""Where the ComfyUI is that the tests run on; as a script, prints it for the Makefile and for .ci/run."""

import os
from pathlib import Path

PACK = Path(__file__).parents[1]


def find_comfyui() -> Path | None:
    """The ComfyUI to test against: $COMFYUI_PATH, the one this pack is installed in, or comfy-cli's place."""
    places = [os.environ.get("COMFYUI_PATH"), PACK.parent.parent, Path.home() / "comfy" / "ComfyUI"]
    return next((Path(p).resolve() for p in places if p and (Path(p) / "comfy" / "sd.py").is_file()), None)


if __name__ == "__main__":
    print(find_comfyui() or "")
