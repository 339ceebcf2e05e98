"""`--backend numpy`, the readable reference: the samplers and the loop around the step, `byolsim.model.step`."""

from byolsim.backends.plain.backend import PlainBackend

__all__ = ["PlainBackend"]
