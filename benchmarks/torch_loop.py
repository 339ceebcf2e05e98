"""The baseline: one run as a user would write it in torch, with autograd and `torch.optim.SGD`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from byolsim.config.run import RunConfig
from byolsim.model.encoder import initial_layers
from byolsim.model.world import World


def microseconds_per_step(config: RunConfig, *, threads: int, steps: int = 300, repeats: int = 5) -> float:
    """Best of `repeats` timings of `steps` training steps, after a warm-up; draws included."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    step = training_step(config)
    for _ in range(20):
        step()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        best = min(best, (time.perf_counter() - start) / steps)
    torch.set_num_threads(before)
    return 1e6 * best


def training_step(config: RunConfig) -> Callable[[], None]:
    """A step (docs/model.md, section 3) with a fixed rate of 1e-3, linear or MLP (relu), float64."""
    torch.manual_seed(0)
    world = World.from_config(config)
    mixing = torch.from_numpy(world.A * world.lam**0.5)
    online, predictor = ([torch.nn.Parameter(torch.tensor(W)) for W in ws] for ws in initial_layers(config, world))
    target = [W.detach().clone() for W in online]
    optimiser = torch.optim.SGD([*online, *predictor], lr=1e-3, momentum=config.mom_pred)
    n, d, r = config.batch_size, world.d, world.q

    def forward(layers: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        x = x @ layers[0].T
        return x if len(layers) == 1 else torch.relu(x) @ layers[1].T

    def step() -> None:
        signal = torch.randn(n, r, dtype=torch.float64) @ mixing.T
        x = signal + world.sigma * torch.randn(n, d, dtype=torch.float64)
        x_plus = signal + world.sigma * torch.randn(n, d, dtype=torch.float64)
        prediction = forward(predictor, forward(online, x))
        with torch.no_grad():
            z_t = forward(target, x_plus)
        loss = 0.5 * ((prediction - z_t) ** 2).sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(target, online, strict=True):
                slow.lerp_(fast, config.tau)

    return step
