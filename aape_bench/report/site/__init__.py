"""A results folder as a static site: one folder that opens from disk and needs no network."""

from aape_bench.report.site.build import Audio, build

__all__ = ["Audio", "build"]
