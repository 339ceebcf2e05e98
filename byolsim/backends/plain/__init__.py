"""`--backend numpy`, the readable reference: the samplers and the loop around the step, which is `byolsim.step`."""

from byolsim.backends.plain.backend import PlainBackend

__all__ = ["PlainBackend"]
