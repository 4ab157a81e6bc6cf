"""The small world: seeded scenes, their images, questions and benchmarks in the form of the paper's eight.

It and the model that is trained on it (``clasp.testbed.training``) take the place of ``clasp.tiny`` once that model's
weights are done.
"""
