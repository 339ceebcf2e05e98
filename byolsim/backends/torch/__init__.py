"""The torch backend: gradients by autograd on stacked parameters, linear models and MLPs, CPU and CUDA."""

import os

# MKL's products of odd shapes depend on how memory is aligned, and so on a run's place in its group, unless it is told
# otherwise before its first call.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

from byolsim.backends.torch.backend import TorchBackend

__all__ = ["TorchBackend"]
