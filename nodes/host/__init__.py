"""The only folder that uses ComfyUI's internals; each use says why it is safe."""
