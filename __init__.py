"""Tune-A-Video for ComfyUI."""
