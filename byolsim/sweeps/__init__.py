"""Grids of runs: plan, cost, dispatch over pools of workers."""
