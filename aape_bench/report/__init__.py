"""Views of the leaderboard: pictures and pages, drawn anew from the records each time."""

from aape_bench.report.plots import plot_scores

__all__ = ["plot_scores"]
