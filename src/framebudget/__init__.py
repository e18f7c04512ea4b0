"""Frame Budget: how many frames does an action need?

One module a DVC stage (`fetch`, `split`, `train`, `evaluate`, `figures`, `paper`); the folders hold what they use.

Shapes are named by suffix everywhere: B batch, V views, C channels, T frames, H height, W width, K classes.
"""
