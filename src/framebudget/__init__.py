"""Frame Budget: how many frames does an action need?

Each DVC stage is a module: `fetch`, `split`, `train`, `evaluate`, `figures`, `paper`. The folders hold shared code.

Tensor names end in their shape: B batch, V views, C channels, T frames, H height, W width, K classes.
"""
