"""The only folder that knows ComfyUI's internals; each use of a detail says why it is safe."""
