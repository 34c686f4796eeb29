"""Callbacks for other people's trainers: `bp.lightning`, `bp.huggingface`.

Each collects a source posterior while the trainer does what it does anyway, and can give the
trainer's optimizer a prior. The trainers' libraries are imported when a callback is made.
"""
