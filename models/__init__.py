"""Encoder plugins that come with aape-bench; each is offered through an entry point, as a third party's is."""
