"""What every training loop needs, whatever it trains: processes and precision, signals, states on disk, growing tables.

Used by an encoder's pre-training and by fine-tuning.
"""
