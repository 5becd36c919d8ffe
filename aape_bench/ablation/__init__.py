"""Ablations: every variant of an encoder's training, evaluated alike, and what follows from it with what certainty.

A `plan` is fixed before anything is trained; `run` trains and evaluates, a process and a variant at a time; `scores`
is the table that all statistics are made from. What can be trained is the business of plugins (`aape_bench.training`).
"""
