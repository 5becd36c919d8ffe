"""Package data: numbers published by others."""
