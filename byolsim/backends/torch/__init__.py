"""The torch backend: gradients by autograd on stacked parameters, linear models and MLPs, CPU and CUDA."""

from byolsim.backends.torch.backend import TorchBackend

__all__ = ["TorchBackend"]
