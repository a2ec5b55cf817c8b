"""What this machine has; the standard library alone, as installing begins with it."""

import shutil
import subprocess


def has_nvidia_gpu() -> bool:
    """Whether a CUDA build of PyTorch would find a GPU."""
    tool = shutil.which("nvidia-smi")
    return bool(tool) and b"GPU" in subprocess.run([tool, "-L"], capture_output=True, check=False).stdout
