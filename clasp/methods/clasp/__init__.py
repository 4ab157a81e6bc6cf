"""CLASP: the method, its text router, its class policy and its layer fusion. Torch-free itself."""
