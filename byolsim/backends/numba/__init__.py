"""The numba backend: closed-form gradients in compiled kernels on the CPU, a group of runs at a time."""

from byolsim.backends.numba.backend import NumbaBackend

__all__ = ["NumbaBackend"]
