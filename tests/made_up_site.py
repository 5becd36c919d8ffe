"""The models of a made-up results folder: good, middling, marked ones, and one whose name is an attack."""

from __future__ import annotations

from record_factory import Model

EVIL = 'evil"><script>alert(1)</script>'
MODELS = [
    Model("good", 2.5),
    Model("middling", 1.0, parameters=5_000_000),
    Model("untrained", 0.2, weights="random"),
    Model("seen[a/b=c]", 1.5, overlap={"esc50": "test"}),
    Model(EVIL, 0.7),
]
